"""Penalties on activity: terms added to the training loss.

A new one derives from `base.Penalty`; agents name it under `network.sparsity`.
"""
