"""Reinforcement learning with spiking neural networks, as a plugin for Gymnasium and Isaac Lab."""

__version__ = "0.1.0"
