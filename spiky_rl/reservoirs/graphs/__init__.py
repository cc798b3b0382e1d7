"""Graphs: the recurrent wiring of a reservoir, with its weights.

A new one derives from `base.ReservoirGraph` and returns a `base.Wiring`.
"""
