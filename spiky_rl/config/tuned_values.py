"""Tuned values: what ``tune.py`` found for agents on tasks, a layer over an agent's own file.

{version: 1, tuning: pilot, trials: 40, seeds: [90000], budget: ..., tasks: {Isaac-Ant: {lif_ppo: {trial: 17, agent: {...}, physics: ...}}}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from spiky_rl.config.options import FileRecord, RegistryError, suggest_name
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.spec import SpecError, read_yaml

FILE_NAME = "tuned.yaml"
"""In a tuning's folder."""
MIN_TRIALS, MIN_SEEDS = 30, 2
"""Trials of each agent, and seeds of each trial, below which a tuning is warned of: chance chooses its values."""


def find_shortfall(trials: int, seeds: int) -> str:
    """Return in words how far a tuning falls short of `MIN_TRIALS` trials of `MIN_SEEDS` seeds; empty if it does not."""
    if trials >= MIN_TRIALS and seeds >= MIN_SEEDS:
        return ""
    return f"{trials} trials of {seeds} seed{'s' * (seeds != 1)}, fewer than {MIN_TRIALS} of {MIN_SEEDS}"


class TunedAgent(FileRecord):
    """Tuned values of one agent on one task."""

    agent: dict[str, Any]
    """Empty: no trial was better than the agent as it is."""
    trial: int | None = None
    """Number of the trial that had them."""
    specification: str | None = None
    """Digest of the agent's own specification there, without them; None: not known, and so of ``physics``."""
    physics: str | None = None
    """What stepped the worlds."""
    operations: float | None = None
    """Effective operations per control step, where they were an objective."""

    def format_name(self, agent: str) -> str:
        """The name of the ``agent`` that has these values, with the number of their trial: ``lif_ppo (trial 17)``."""
        return agent if self.trial is None else f"{agent} (trial {self.trial})"


class TunedValuesFile(FileRecord):
    """A file of tuned values."""

    path: Path
    version: Literal[1]
    tuning: str
    """Name of the tuning."""
    trials: int
    """Number of trials that every agent had on every task."""
    seeds: Annotated[tuple[int, ...], Field(strict=False)]
    """That trials were trained with, and tests may not be."""
    budget: str
    """Budget of one trial, in words."""
    tasks: dict[str, dict[str, TunedAgent]]

    def get_layer(self, task: str, agent: str) -> tuple[str, PlainMapping]:
        """Where an ``agent``'s values on a ``task`` come from, and the values. Raises SpecError where it was not tuned there."""
        agents = self.tasks.get(task)
        if agents is None:
            there = f"{', '.join(self.tasks)}{suggest_name(task, self.tasks)}"
            raise SpecError(f"{self.path}: has no values for the task {task}; it has some for {there}")
        if agent not in agents:
            there = f"{', '.join(agents)}{suggest_name(agent, agents)}"
            raise SpecError(f"{self.path}: has no values for {agent} on {task}; it has some for {there}")
        return f"{self.path.name} for {task}", agents[agent].agent


def read_tuned(path: Path) -> TunedValuesFile:
    """The values in the file of a tuning at ``path``, or in its folder. Raises SpecError that names the file and the key."""
    if path.is_dir():
        if not (path / FILE_NAME).exists():
            raise SpecError(f"{str(path)!r}: holds no finished tuning; there is no {FILE_NAME}")
        path = path / FILE_NAME
    data = read_yaml(path)
    try:
        return TunedValuesFile.check("", {**data, "path": path})
    except RegistryError as error:
        raise SpecError(f"{path}: {error}; this is no file of tune.py that this program reads") from None
