"""Episode statistics of skrl trainings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

from spiky_rl.learners.common.episodes import EpisodeStatistics


class SkrlEpisodeStatistics(EpisodeStatistics):
    """Returns and lengths of the latest episodes, and the environment's reports about them."""

    def __init__(self, num_envs: int, device: torch.device | str) -> None:
        super().__init__(num_envs, device)
        self.reports: list[Mapping[str, float | Tensor]] = []

    def add_step(
        self, rewards: Tensor, dones: Tensor, extras: Mapping[str, Mapping[str, float | Tensor]]
    ) -> None:
        """Count a control step: ``rewards`` and ``dones`` [B, 1], and the environment's ``extras``."""
        if report := extras.get("episode", extras.get("log")):
            self.reports.append(report)
        self.add(rewards.view(-1), dones.view(-1))

    def fetch_reports(self) -> dict[str, float]:
        """Return the means of the environment's reports since the last call, by tag."""
        values: dict[str, list[float]] = {}
        for report in self.reports:
            for key, value in report.items():
                numbers = torch.as_tensor(value, dtype=torch.float32).flatten().tolist()
                values.setdefault(key if "/" in key else f"Episode/{key}", []).extend(numbers)
        self.reports.clear()
        return {tag: statistics.mean(numbers) for tag, numbers in values.items() if numbers}
