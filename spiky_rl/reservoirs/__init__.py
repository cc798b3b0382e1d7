"""Reservoirs: graphs, growth, plasticity, calibration, and measures of memory."""
