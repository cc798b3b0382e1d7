"""Measures of the episodes of Isaac Lab's robots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

import torch

from spiky_rl.hosts.isaaclab.workflows import Env, WrappedEnv
from spiky_rl.hosts.robot_measures import RobotMeasures

if TYPE_CHECKING:
    from isaaclab.envs.mdp import UniformVelocityCommand


class IsaacLabMeasures(RobotMeasures):
    """Measures of every environment's episode."""

    def __init__(self, env: WrappedEnv) -> None:
        self.robot: Any = env.unwrapped.scene.articulations.get("robot")
        is_free = self.robot is not None and not self.robot.is_fixed_base
        super().__init__(env.unwrapped, is_free, get_commanded_velocity(env.unwrapped))

    @override
    def get_positions(self) -> torch.Tensor:
        return self.robot.data.root_link_pos_w.torch

    @override
    def get_velocities(self) -> torch.Tensor:
        return self.command.robot.data.root_lin_vel_b.torch


def get_commanded_velocity(env: Env) -> UniformVelocityCommand | None:
    """Return the velocity command of an ``env``, in the frame of the base, or None if the task has none."""
    from isaaclab.envs import mdp

    manager = getattr(env, "command_manager", None)
    terms = [] if manager is None else [manager.get_term(name) for name in manager.active_terms]
    return next((term for term in terms if isinstance(term, mdp.UniformVelocityCommand)), None)
