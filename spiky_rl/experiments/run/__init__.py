"""Cells of a study and trials of a tuning, worked on this machine or on a cluster."""
