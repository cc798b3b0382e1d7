"""Decoders: spikes of the last layer into features [T, B, F]."""
