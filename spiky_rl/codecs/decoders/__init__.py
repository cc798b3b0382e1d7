"""Decoders: spikes of the last layer into features [T, B, F].

A new one derives from `base.Decoder`; its file is its name in an agent.
"""
