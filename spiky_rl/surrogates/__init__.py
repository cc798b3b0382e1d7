"""Surrogate gradients: d spike / d potential in the backward pass, one file each.

A new one derives from `base.Surrogate`; agents name it under `network.surrogate`.
"""
