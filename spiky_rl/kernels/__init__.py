"""Kernels: the op vocabulary of a neuron's step, and the backends that run it over time."""
