"""Episodes that end while skrl trains, and the scalars that rsl_rl's logger writes of an iteration."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spiky_rl.hosts.common.episodes import KEPT, EndedEpisodes


class Episodes:
    """Returns and lengths of the latest episodes, and what the environment reports of them."""

    def __init__(self, num_envs: int, device: Any) -> None:
        self.reports: deque[Mapping[str, Any]] = deque(maxlen=KEPT)
        self._ended = EndedEpisodes(num_envs, device)

    @property
    def returns(self) -> deque[float]:
        """Returns of the episodes that `read` has taken over."""
        return self._ended.returns

    @property
    def lengths(self) -> deque[float]:
        """Their lengths, in control steps."""
        return self._ended.lengths

    def add(self, rewards: Tensor, dones: Tensor, extras: Mapping[str, Any]) -> None:
        """Count a control step: rewards and dones [B, 1], and the environment's extras."""
        if report := extras.get("episode", extras.get("log")):
            self.reports.append(report)
        self._ended.add(rewards.view(-1), dones.view(-1))

    def read(self) -> None:
        """Take over what ended since the last call, as `EndedEpisodes.read`."""
        self._ended.read()

    def report(self) -> dict[str, float]:
        """Means of the environment's reports since the last call, by tag."""
        values: dict[str, list[float]] = {}
        for report in self.reports:
            for key, value in report.items():
                numbers = torch.as_tensor(value, dtype=torch.float32).flatten().tolist()
                values.setdefault(key if "/" in key else f"Episode/{key}", []).extend(numbers)
        self.reports.clear()
        return {tag: statistics.mean(numbers) for tag, numbers in values.items() if numbers}


def write_training(
    writer: Any,
    index: int,
    losses: Mapping[str, float],
    learning_rate: float,
    deviation: float,
    env_steps: int,
    seconds: tuple[float, float, float],
    episodes: Episodes,
) -> None:
    """The scalars of rsl_rl's logger; ``seconds`` collecting, learning and in all, ``deviation`` the mean one of the actions."""
    collecting, learning, elapsed = seconds
    scalars = {f"Loss/{name}": value for name, value in losses.items()}
    scalars |= {"Loss/learning_rate": learning_rate, "Policy/mean_std": deviation}
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
    for tag, value in {**episodes.report(), **scalars}.items():
        writer.add_scalar(tag, value, index)
