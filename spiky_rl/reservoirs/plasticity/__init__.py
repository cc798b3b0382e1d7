"""Plasticity: rules that change a reservoir's synapses and excitabilities while it runs, without a gradient.

A new one derives from `base.Plasticity`.
"""
