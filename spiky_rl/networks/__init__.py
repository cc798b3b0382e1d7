"""Architectures: layers, connections and the two nested clocks."""
