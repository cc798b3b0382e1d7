"""Spiking networks in continuous time: what is derived from a neuron, and the solver that goes from event to event."""
