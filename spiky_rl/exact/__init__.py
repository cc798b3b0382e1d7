"""Spiking networks in continuous time: solvers with exact spike times, and their gradients.

`solver` integrates any neuron that is an ODE, `adjoint` differentiates it, `spike_times` has SpikeProp's layers.
"""
