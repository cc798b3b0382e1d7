"""Connections: how the spikes of one layer become the currents of the next."""
