"""Tuned values: a file of ``spiky tune`` with overrides for agents on tasks.

{version: 1, tuning: pilot, trials: 40, seeds: [90000], budget: ..., tasks: {Isaac-Ant: {lif_ppo: {trial: 17, agent: {...}, physics: ...}}}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from spiky_rl.config.options import FileRecord, RegistryError, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.progress import format_count
from spiky_rl.config.spec import SpecError, read_yaml

FILE_NAME = "tuned.yaml"
"""Name of the file in the folder of a tuning."""
MIN_TRIALS, MIN_SEEDS = 30, 2
"""Trials per agent and seeds per trial below which commands warn: with fewer, chance decides the values."""


def find_shortfall(trials: int, seeds: int) -> str:
    """Return a text if a tuning has fewer than `MIN_TRIALS` trials of `MIN_SEEDS` seeds, else an empty text."""
    if trials >= MIN_TRIALS and seeds >= MIN_SEEDS:
        return ""
    return f"{format_count(trials, 'trial')} of {format_count(seeds, 'seed')}, fewer than {MIN_TRIALS} of {MIN_SEEDS}"


class TunedAgent(FileRecord):
    """Tuned values of one agent on one task."""

    agent: dict[str, Any]
    """Overrides of the agent; empty if no trial was better than the agent's defaults."""
    trial: int | None = None
    """Number of the best trial."""
    specification: str | None = None
    """Digest of the agent's specification without the tuned values; None in older files."""
    physics: str | None = None
    """Physics backend of the trials; None in older files."""
    operations: float | None = None
    """Effective operations per control step, if they were an objective."""

    def format_name(self, agent: str) -> str:
        """Return the agent's name with the number of the trial: ``lif_ppo (trial 17)``."""
        return agent if self.trial is None else f"{agent} (trial {self.trial})"


class TunedValuesFile(FileRecord):
    """File of tuned values."""

    path: Path
    version: Literal[1]
    tuning: str
    """Name of the tuning."""
    trials: int
    """Number of trials of every agent on every task."""
    seeds: Annotated[tuple[int, ...], Field(strict=False)]
    """Seeds of the trials; tests need others."""
    budget: str
    """Budget of one trial, in words."""
    tasks: dict[str, dict[str, TunedAgent]]
    """Task -> agent -> tuned values."""

    def get_layer(self, task: str, agent: str) -> tuple[str, PlainMapping]:
        """Return (origin, values) of an agent on a task. Raises SpecError if the file has none."""
        agents = self.tasks.get(task)
        if agents is None:
            known = f"{', '.join(self.tasks)}{suggest_name(task, self.tasks)}"
            raise SpecError(f"{self.path}: has no values for the task {task}; tuned: {known}")
        if agent not in agents:
            known = f"{', '.join(agents)}{suggest_name(agent, agents)}"
            raise SpecError(f"{self.path}: has no values for {agent} on {task}; tuned: {known}")
        return f"{self.path.name} for {task}", agents[agent].agent


def read_tuned(path: Path) -> TunedValuesFile:
    """Read a file of tuned values, or the one in a tuning's folder. Raises SpecError that names the file and the key."""
    if path.is_dir():
        if not (path / FILE_NAME).exists():
            raise SpecError(f"{str(path)!r}: not the folder of a finished tuning; it has no {FILE_NAME}")
        path = path / FILE_NAME
    data = read_yaml(path)
    try:
        return TunedValuesFile.check("", {**data, "path": path})
    except RegistryError as error:
        raise SpecError(f"{path}: {error}; not a file of spiky tune, or of another version") from None
