"""Spiking policies for Isaac Lab: the same agents, tasks and runs, with neurons that fire."""

__version__ = "0.1.0"
