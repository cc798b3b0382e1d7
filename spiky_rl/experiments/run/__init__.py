"""Cells of a study and trials of a tuning, worked on this machine or on a cluster.

`planning` lists what is missing, an engine works it, `cells` reads and writes what a cell leaves.
"""
