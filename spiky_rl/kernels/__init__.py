"""Kernels: the op vocabulary of a neuron's step, and the backends that run it over time.

`ops` is the vocabulary, `trace` records a step, `emit` writes it as C, `stack` runs a whole network in one call.
"""
