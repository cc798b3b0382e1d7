"""Measures of a running network: spikes, operations, energy; and videos of them."""
