"""Kernels: what runs a step over time: the op vocabulary and the backends."""
