"""Spiking networks in continuous time: solvers between exact spike times, and gradients through them."""
