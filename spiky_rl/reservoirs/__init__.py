"""Reservoirs: graphs, growth, plasticity, calibration and what a reservoir can remember."""
