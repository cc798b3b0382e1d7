"""Network architectures: layers with K inner steps in each of T control steps.

A new one derives from `base.SpikingNetwork`; agents name it under `network.name`.
"""
