"""Encoders: observations [T, B, O] into currents or spikes.

A new one derives from `base.Encoder`; its file is its name in an agent.
"""
