"""Connections: spikes of a layer into currents of the next layer, or of the same layer."""
