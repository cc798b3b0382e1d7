"""Measures of a robot task's aim per episode, besides the reward: distance, time upright, velocity error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class RobotMeasures(ABC):
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    A done environment has already begun its next episode, so its last position is that of the previous step.
    """

    def __init__(self, env: Any, is_free: bool, command: Any) -> None:
        """Start with new episodes.

        Args:
            env: The host's environment, with ``num_envs``, ``device`` and ``step_dt`` in s.
            is_free: Whether the robot's base moves, so that its distance is measured.
            command: Term that commands a velocity in the frame of the base, ``command`` [B, 2 or more]; None if the task has none.
        """
        self.env, self.is_free, self.command = env, is_free, command
        self.steps = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
        self.reset()

    @abstractmethod
    def get_positions(self) -> torch.Tensor:
        """Return the positions of the free bases, [B, 3] in m."""

    @abstractmethod
    def get_velocities(self) -> torch.Tensor:
        """Return the velocities of the commanded bases in their own frames, [B, 3] in m/s."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of an episode's measures.

        ``upright`` [s]; ``distance`` [m] if the base is free; ``velocity_error`` [m/s] if the task commands a velocity: mean
        distance of the velocity from the command along x and y.
        """
        free = ("distance",) if self.is_free else ()
        return ("upright", *free, *(() if self.command is None else ("velocity_error",)))

    def reset(self) -> None:
        """Start new episodes in all environments at their present positions."""
        self.steps.zero_()
        if self.is_free:
            self.start = self.last = self.get_positions()[:, :2].clone()
        if self.command is not None:
            self.error_sum = torch.zeros(len(self.steps), device=self.env.device)
            self.commanded = self.command.command.clone()

    def step(self, dones: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the measures of the episodes that end with ``dones`` [B], by name, each [number of ended episodes]."""
        self.steps += 1
        ended = dones.bool()
        measures = {"upright": self.steps[ended] * self.env.step_dt}
        if self.is_free:
            measures["distance"] = (self.last - self.start)[ended].norm(dim=-1)
            self.last = self.get_positions()[:, :2].clone()
            self.start = torch.where(ended[:, None], self.last, self.start)
        if self.command is not None:
            difference = self.get_velocities()[:, :2] - self.commanded[:, :2]
            self.error_sum += difference.norm(dim=-1) * ~ended
            measures["velocity_error"] = self.error_sum[ended] / (self.steps[ended] - 1).clamp(min=1)
            self.error_sum, self.commanded = self.error_sum * ~ended, self.command.command.clone()
        self.steps = self.steps * ~ended
        return measures
