"""Live views: Isaac Lab's visualizers, with the spikes of environment 0 beside the robot.

A view derives from `base`; each needs its own package, which `setup` checks.
"""
