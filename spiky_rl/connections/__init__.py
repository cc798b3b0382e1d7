"""Connections: spikes of a layer into currents of the next layer, or of the same layer.

A new one derives from `base.Connection`; its file is its name in an agent.
"""
