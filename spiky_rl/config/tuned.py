"""Tuned values: what ``tune.py`` found for agents on tasks, a layer over an agent's own file.

{version: 1, tuning: pilot, trials: 40, seeds: [90000], budget: ..., tasks: {Isaac-Ant: {lif_ppo: {trial: 17, agent: {...}}}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.config.registry import nearest
from spiky_rl.config.spec import SpecError, read_yaml

FILE = "tuned.yaml"
"""In a tuning's folder."""
KEYS = {"version": int, "tuning": str, "trials": int, "seeds": list, "budget": str, "tasks": dict}
"""Keys of the file, and the type of each one's value."""


@dataclass(frozen=True)
class Tuned:
    """A file of tuned values."""

    path: Path
    tuning: str
    """Name of the tuning."""
    trials: int
    """Number of trials that every agent had on every task."""
    seeds: tuple[int, ...]
    """That trials were trained with, and tests may not be."""
    budget: str
    """Budget of one trial, in words."""
    tasks: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def layer(self, task: str, agent: str) -> tuple[str, Mapping[str, Any]]:
        """Where an agent's values on a task come from, and the values. Raises SpecError where it was not tuned there."""
        agents = self.tasks.get(task)
        if agents is None:
            there = f"{', '.join(self.tasks)}{nearest(task, self.tasks)}"
            raise SpecError(f"{self.path}: has no values for the task {task}; it has some for {there}")
        if agent not in agents:
            there = f"{', '.join(agents)}{nearest(agent, agents)}"
            raise SpecError(f"{self.path}: has no values for {agent} on {task}; it has some for {there}")
        return f"{self.path.name} for {task}", agents[agent]["agent"]


def read_tuned(path: Path) -> Tuned:
    """The values in a tuning's file, or in its folder. Raises SpecError that names the file and the key."""
    if path.is_dir():
        if not (path / FILE).exists():
            raise SpecError(f"{str(path)!r}: holds no finished tuning; there is no {FILE}")
        path = path / FILE
    data = read_yaml(path)
    for key, kind in KEYS.items():
        if not isinstance(data.get(key), kind):
            raise SpecError(f"{path}: {key}: is missing or of another type; this is no file of tune.py")
    if data["version"] != 1:
        raise SpecError(f"{path}: version {data['version']!r}; this program reads version 1")
    for task, agents in data["tasks"].items():
        for agent, found in agents.items() if isinstance(agents, Mapping) else [("", None)]:
            if not isinstance(found, Mapping) or not isinstance(found.get("agent"), Mapping):
                raise SpecError(f"{path}: tasks.{task}.{agent}: expected a mapping with the key agent")
    if not all(isinstance(seed, int) for seed in data["seeds"]):
        raise SpecError(f"{path}: seeds: expected whole numbers, got {data['seeds']!r}")
    return Tuned(path, data["tuning"], data["trials"], tuple(data["seeds"]), data["budget"], data["tasks"])
