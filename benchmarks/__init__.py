"""Benchmarks against other libraries, and the verification of a machine with a GPU; for a checkout with the extra `dev`."""
