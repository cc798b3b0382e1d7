"""Episode statistics of skrl trainings, and the scalars of rsl_rl's logger."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

from spiky_rl.learners.common.episodes import EpisodeStatistics
from spiky_rl.learners.common.interfaces import ScalarWriter


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


def write_training(
    writer: ScalarWriter,
    index: int,
    losses: Mapping[str, float],
    learning_rate: float,
    action_std: float,
    env_steps: int,
    seconds: tuple[float, float, float],
    episodes: SkrlEpisodeStatistics,
) -> None:
    """Write the scalars of an iteration under the names of rsl_rl's logger.

    Args:
        writer: TensorBoard's writer.
        index: Index of the iteration.
        losses: Losses by name.
        learning_rate: Learning rate at the end of the iteration.
        action_std: Mean standard deviation of the actions.
        env_steps: Environment steps of the iteration.
        seconds: Duration of collecting, of learning, and of the whole training so far.
        episodes: Latest episodes; their reports are fetched.
    """
    collecting, learning, elapsed = seconds
    scalars = {f"Loss/{name}": value for name, value in losses.items()}
    scalars |= {"Loss/learning_rate": learning_rate, "Policy/mean_std": action_std}
    scalars |= {
        "Perf/total_fps": int(env_steps / (collecting + learning)),
        "Perf/collection_time": collecting,
        "Perf/learning_time": learning,
    }
    if episodes.returns:
        latest = {"mean_reward": episodes.returns, "mean_episode_length": episodes.lengths}
        for name, values in latest.items():
            scalars[f"Train/{name}"] = statistics.mean(values)
            writer.add_scalar(f"Train/{name}/time", statistics.mean(values), int(elapsed))
    for tag, value in {**episodes.fetch_reports(), **scalars}.items():
        writer.add_scalar(tag, value, index)
