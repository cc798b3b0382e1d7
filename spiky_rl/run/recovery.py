"""Recovery from what happens in the middle of an episode: reward at its end beside the reward before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RecoveryMeter:
    """Sums of rewards per environment: before the middle of the longest episode, and in the last third of it.

    Steps that an episode is too short to have count as steps without reward: who falls does not recover.
    """

    def __init__(self, num_envs: int, longest: int, device: torch.device | str) -> None:
        """``longest``: control steps of an episode that time ends."""
        self.longest, self.middle = longest, longest // 2
        self.late = longest - longest // 3
        self.steps = 0
        self.before, self.after = (torch.zeros(num_envs, device=device) for _ in range(2))
        self.reached = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def add(self, rewards: Tensor, running: Tensor) -> None:
        """Count a control step: ``rewards`` [B]; ``running`` [B]: whether each environment is still in the episode that counts."""
        if self.steps < self.middle:
            self.before = self.before + rewards * running
        if self.steps == self.middle:
            self.reached = running.clone()
        if self.steps >= self.late:
            self.after = self.after + rewards * running
        self.steps += 1

    def compute(self, ids: Tensor) -> dict[str, Any] | None:
        """Recovery of the environments ``ids`` whose episode reached its middle; None where none did.

        ``before`` and ``after``: mean reward per control step before the middle and in the last third; ``share``: after over
        before, None where before is not above 0 (a share of a punishment would rise where the reward falls).
        """
        ids = ids[self.reached[ids]]
        if len(ids) == 0 or self.middle == 0 or self.late == self.longest:
            return None
        before = float(self.before[ids].mean()) / self.middle
        after = float(self.after[ids].mean()) / (self.longest - self.late)
        return {
            "episodes": len(ids),
            "before": before,
            "after": after,
            "share": after / before if before > 0.0 else None,
        }
