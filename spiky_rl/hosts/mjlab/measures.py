# pyright: reportMissingImports=false
"""Measures of the episodes of mjlab's robots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, override

import torch

from spiky_rl.hosts.robot_measures import RobotMeasures

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.velocity.mdp import UniformVelocityCommand

ROBOT = "robot"
"""Name of the entity whose distance is measured; the tasks of mjlab with a robot use it."""


class MjlabMeasures(RobotMeasures):
    """Measures of every environment's episode."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.robot: Any = env.scene.entities.get(ROBOT)
        is_free = self.robot is not None and not self.robot.is_fixed_base
        super().__init__(env, is_free, get_commanded_velocity(env))

    @override
    def get_positions(self) -> torch.Tensor:
        return self.robot.data.root_link_pos_w

    @override
    def get_velocities(self) -> torch.Tensor:
        return self.command.robot.data.root_link_lin_vel_b


def get_commanded_velocity(env: ManagerBasedRlEnv) -> UniformVelocityCommand | None:
    """Return the velocity command of an ``env``, in the frame of the base, or None if the task has none."""
    from mjlab.tasks.velocity.mdp import UniformVelocityCommand

    terms = [env.command_manager.get_term(name) for name in env.command_manager.active_terms]
    return next((term for term in terms if isinstance(term, UniformVelocityCommand)), None)
