"""Native physics for Isaac Lab: MuJoCo's C library steps the worlds on the CPU, in the place of MuJoCo-Warp.

Isaac Lab's commands import `isaaclab_mujoco.tasks`, which offers ``physics=mujoco``. A script calls
`isaaclab_mujoco.selection.apply_physics` or `isaaclab_mujoco.presets.add_preset`. Importing this package imports nothing else.
"""

__version__ = "0.1.0"
