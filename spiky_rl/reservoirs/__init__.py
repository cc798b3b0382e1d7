"""Reservoirs: graphs, growth, plasticity, calibration, and measures of memory.

The network itself is `spiky_rl.networks.reservoir`.
"""
