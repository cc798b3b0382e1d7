"""Measures of a task's aim per episode, besides the reward: distance, time upright, velocity error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spiky_rl.hosts.isaaclab.workflows import Env, WrappedEnv

if TYPE_CHECKING:
    from isaaclab.envs.mdp import UniformVelocityCommand


class EpisodeMeasures:
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    A done environment has already begun its next episode, so its last position is that of the previous step.
    """

    def __init__(self, env: WrappedEnv) -> None:
        self.env = env.unwrapped
        self.steps = torch.zeros(self.env.num_envs, dtype=torch.long, device=self.env.device)
        articulations = self.env.scene.articulations
        self.robot = articulations.get("robot")
        if self.robot is not None and self.robot.is_fixed_base:
            self.robot = None
        self.command = get_commanded_velocity(self.env)
        self.reset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of an episode's measures.

        ``upright`` [s]; ``distance`` [m] if the base is free; ``velocity_error`` [m/s] if the task commands a velocity: mean
        distance of the velocity from the command along x and y.
        """
        free = () if self.robot is None else ("distance",)
        return ("upright", *free, *(() if self.command is None else ("velocity_error",)))

    def reset(self) -> None:
        """Start new episodes in all environments at their present positions."""
        self.steps.zero_()
        self.start = self.last = self.get_positions()
        if self.command is not None:
            self.velocity_errors, self.commanded = (
                torch.zeros(len(self.steps), device=self.env.device),
                self.command.command.clone(),
            )

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
            velocity = self.command.robot.data.root_lin_vel_b.torch
            self.velocity_errors += (velocity[:, :2] - self.commanded[:, :2]).norm(dim=-1) * ~ended
            measures["velocity_error"] = self.velocity_errors[ended] / (self.steps[ended] - 1).clamp(min=1)
            self.velocity_errors, self.commanded = self.velocity_errors * ~ended, self.command.command.clone()
        self.steps = self.steps * ~ended
        return measures

    def get_positions(self) -> torch.Tensor:
        """Return the robots' positions along x and y, [B, 2] in m; [B, 0] without a free base."""
        if self.robot is None:
            return torch.zeros(len(self.steps), 0)
        return self.robot.data.root_link_pos_w.torch[:, :2].clone()


def get_commanded_velocity(env: Env) -> UniformVelocityCommand | None:
    """Return the velocity command of an ``env``, in the frame of the base, or None if the task has none."""
    from isaaclab.envs import mdp

    manager = getattr(env, "command_manager", None)
    terms = [] if manager is None else [manager.get_term(name) for name in manager.active_terms]
    return next((term for term in terms if isinstance(term, mdp.UniformVelocityCommand)), None)
