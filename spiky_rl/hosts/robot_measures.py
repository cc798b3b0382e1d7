"""Measures of a robot task's aim per episode, besides the reward: distance, time upright, velocity error."""

from __future__ import annotations

from typing import Any

import torch


class RobotMeasures:
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    A done environment has already begun its next episode, so its last position is that of the previous step.
    """

    def __init__(self, env: Any, robot: Any, command_class: type, velocity: str) -> None:
        """Start with new episodes.

        Args:
            env: The simulator's own environment, with ``num_envs``, ``device`` and ``step_dt`` in s.
            robot: The robot whose distance is measured if its base is free; None if the task has none.
            command_class: Class of the term that commands a velocity in the frame of the base, ``command`` [B, 2 or more].
            velocity: Name of the base's velocity in its own frame among a robot's data.
        """
        self.env, self.robot, self.velocity = env, robot, velocity
        self.is_free = robot is not None and not robot.is_fixed_base
        manager = getattr(env, "command_manager", None)
        terms = [] if manager is None else [manager.get_term(name) for name in manager.active_terms]
        self.command: Any = next((term for term in terms if isinstance(term, command_class)), None)
        self.steps = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
        self.reset()

    def _get_positions(self) -> torch.Tensor:
        """Return a copy of the free bases' positions along x and y, [B, 2] in m."""
        return _to_tensor(self.robot.data.root_link_pos_w)[:, :2].clone()

    def reset(self) -> None:
        """Start new episodes in all environments at their present positions."""
        self.steps.zero_()
        if self.is_free:
            self.start = self.last = self._get_positions()
        if self.command is not None:
            self.error_sum = torch.zeros(len(self.steps), device=self.env.device)
            self.commanded = self.command.command.clone()

    def step(self, dones: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the measures of the episodes that end with ``dones`` [B], by name, each [number of ended episodes].

        ``upright`` [s]; ``distance`` [m] if the base is free; ``velocity_error`` [m/s] if the task commands a velocity: mean
        distance of the velocity from the command along x and y. The velocity after an episode's last step is not known, so the error of
        an episode of one step is nan.
        """
        self.steps += 1
        ended = dones.bool()
        measures = {"upright": self.steps[ended] * self.env.step_dt}
        if self.is_free:
            measures["distance"] = (self.last - self.start)[ended].norm(dim=-1)
            self.last = self._get_positions()
            self.start = torch.where(ended[:, None], self.last, self.start)
        if self.command is not None:
            velocities = _to_tensor(getattr(self.command.robot.data, self.velocity))
            difference = velocities[:, :2] - self.commanded[:, :2]
            self.error_sum += difference.norm(dim=-1) * ~ended
            measures["velocity_error"] = self.error_sum[ended] / (self.steps[ended] - 1)
            self.error_sum, self.commanded = self.error_sum * ~ended, self.command.command.clone()
        self.steps = self.steps * ~ended
        return measures


def _to_tensor(values: Any) -> torch.Tensor:
    """Return a robot's data as a tensor; Isaac Lab has them as Warp arrays with an attribute ``torch``."""
    return getattr(values, "torch", values)
