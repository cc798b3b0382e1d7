"""Recovery from damage in mid-episode: reward at the end of the episode relative to the reward before the damage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RecoveryMeter:
    """Sums of rewards per environment: in the first half and in the last third of the maximum episode length.

    Control steps after an early end of the episode count as steps without reward: a robot that falls does not recover.
    """

    def __init__(self, num_envs: int, max_episode_length: int, device: torch.device | str) -> None:
        """Initialise the sums; ``max_episode_length`` is in control steps."""
        self.length, self.middle = max_episode_length, max_episode_length // 2
        self.late_start = max_episode_length - max_episode_length // 3
        """First control step of the last third."""
        self.steps = 0
        """Number of control steps so far."""
        self.before, self.after = (torch.zeros(num_envs, device=device) for _ in range(2))
        """Sums of the rewards before the middle, and in the last third, [B]."""
        self.has_reached_middle = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def add(self, rewards: Tensor, running: Tensor) -> None:
        """Add the ``rewards`` [B] of a control step where ``running`` [B]: environments still in their measured episode."""
        if self.steps < self.middle:
            self.before = self.before + rewards * running
        if self.steps == self.middle:
            self.has_reached_middle = running.clone()
        if self.steps >= self.late_start:
            self.after = self.after + rewards * running
        self.steps += 1

    def compute(self, ids: Tensor) -> dict[str, Any] | None:
        """Return the recovery of the environments ``ids`` whose episode reached its middle, or None if none did.

        ``before`` and ``after``: mean reward per control step before the middle and in the last third; ``share``: after over
        before, None if before is not above 0 (the share of a negative reward would rise as the reward falls).
        """
        ids = ids[self.has_reached_middle[ids]]
        if len(ids) == 0 or self.middle == 0 or self.late_start == self.length:
            return None
        before = float(self.before[ids].mean()) / self.middle
        after = float(self.after[ids].mean()) / (self.length - self.late_start)
        return {
            "episodes": len(ids),
            "before": before,
            "after": after,
            "share": after / before if before > 0.0 else None,
        }
