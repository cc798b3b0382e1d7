# pyright: reportMissingImports=false
"""Measures of a task's aim per episode, besides the reward: distance, time upright, velocity error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.tasks.velocity.mdp import UniformVelocityCommand

ROBOT = "robot"
"""Name of the entity whose distance is measured; the tasks of mjlab with a robot use it."""


class EpisodeMeasures:
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    The measures are ``upright`` [s]; ``distance`` [m] if the robot's base is free; ``velocity_error`` [m/s] if the task commands
    a velocity: mean distance of the velocity from the command along x and y. A done environment has already begun its next
    episode, so its last position is that of the previous step.
    """

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.env = env
        self.steps = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
        robot = env.scene.entities.get(ROBOT)
        self.robot = None if robot is None or robot.is_fixed_base else robot
        self.command = get_commanded_velocity(env)
        self.reset()

    def reset(self) -> None:
        """Start new episodes in all environments at their present positions."""
        self.steps.zero_()
        self.start = self.last = self.get_positions()
        if self.command is not None:
            self.error_sum = torch.zeros(len(self.steps), device=self.env.device)
            self.commanded = self.command.command.clone()

    def step(self, dones: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the measures of the episodes that end with ``dones`` [B], by name, each [number of ended episodes]."""
        self.steps += 1
        ended = dones.bool()
        measures = {"upright": self.steps[ended] * self.env.step_dt}
        if self.robot is not None:
            measures["distance"] = (self.last - self.start)[ended].norm(dim=-1)
            self.last = self.get_positions()
            self.start = torch.where(ended[:, None], self.last, self.start)
        if self.command is not None:
            velocity = self.command.robot.data.root_link_lin_vel_b
            self.error_sum += (velocity[:, :2] - self.commanded[:, :2]).norm(dim=-1) * ~ended
            measures["velocity_error"] = self.error_sum[ended] / (self.steps[ended] - 1).clamp(min=1)
            self.error_sum, self.commanded = self.error_sum * ~ended, self.command.command.clone()
        self.steps = self.steps * ~ended
        return measures

    def get_positions(self) -> torch.Tensor:
        """Return the robots' positions along x and y, [B, 2] in m; [B, 0] without a free base."""
        if self.robot is None:
            return torch.zeros(len(self.steps), 0)
        return self.robot.data.root_link_pos_w[:, :2].clone()


def get_commanded_velocity(env: ManagerBasedRlEnv) -> UniformVelocityCommand | None:
    """Return the velocity command of an ``env``, in the frame of the base, or None if the task has none."""
    from mjlab.tasks.velocity.mdp import UniformVelocityCommand

    terms = [env.command_manager.get_term(name) for name in env.command_manager.active_terms]
    return next((term for term in terms if isinstance(term, UniformVelocityCommand)), None)
