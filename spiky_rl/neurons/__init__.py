"""Spiking neurons: one file each, with one pure step each.

A new one derives from `base.Neuron`, or from `base.Ode` if it is a differential equation.
"""
