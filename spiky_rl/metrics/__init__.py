"""Measures of a running network: spikes, operations."""
