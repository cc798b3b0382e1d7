"""Benchmarks beside other libraries, and the check of a machine with a GPU; for a checkout with the extra `dev`."""
