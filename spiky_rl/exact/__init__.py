"""Spiking networks in continuous time: solvers with exact spike times, and their gradients."""
