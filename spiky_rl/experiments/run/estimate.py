"""How long cells will take: from results of the same agents and tasks, else from what a task's file says of its speed.

An evaluation simulates all conditions until the longest episode is over; an environment step of it takes what one takes in training
without learning.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from spiky_rl.config.options import FileRecord
from spiky_rl.config.schema import TaskSpec
from spiky_rl.experiments.design.grid import EARLIER_PHYSICS, Cell
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.cells import RESULT, read_if_valid
from spiky_rl.hosts import find_host

OVERHEAD = 25.0
"""Seconds for which a cell starts its two simulators."""
REFERENCE = "mlp_ppo"
"""The agent that the tasks' files speak of."""
SOURCES = (
    "results of the same specification",
    "results of the same agent and task",
    "results of the same agent and task in another physics",
)
"""Where a speed is from, in the order of `keys`."""

type Key = tuple[str, ...]
"""What a speed is known of."""


class TrainingSpeedRecord(FileRecord):
    """Fields of a training's result that tell its speed."""

    seconds_total: float
    env_steps: float
    seconds_cpu: float | None = None
    seconds_simulation: float = 0.0
    seconds_inference: float = 0.0


class EpisodeLengthsRecord(FileRecord):
    """Control steps of the episodes under a condition."""

    lengths: Annotated[tuple[float, ...], Field(strict=False)]


class EvaluationSpeedRecord(FileRecord):
    """Fields of an evaluation's result that tell how many environment steps it took."""

    conditions: dict[str, EpisodeLengthsRecord]
    adapting: dict[str, EpisodeLengthsRecord] | None = None

    @property
    def steps(self) -> float:
        """Environment steps per condition and episode: all go on until the longest is over, of a plastic policy twice."""
        longest = max((steps for each in self.conditions.values() for steps in each.lengths), default=0.0)
        return longest * (2 if self.adapting else 1)


class CellSpeedRecord(FileRecord):
    """Fields of a cell's result that tell its speed."""

    agent: str
    task: str
    device: str
    physics: str = EARLIER_PHYSICS
    spec_hash: str | None = None
    training: TrainingSpeedRecord | None
    evaluation: EvaluationSpeedRecord | None = None


class CellSpeed(NamedTuple):
    """What a cell takes."""

    training: float
    """Seconds per environment step, simulation and learning together."""
    evaluation: float
    """Seconds per condition and episode; 0 where that is not known."""


def make_lookup_keys(cell: CellSpeedRecord | Cell, agent: str = "") -> tuple[Key, Key, Key]:
    """What a ``cell``'s speed says something of, the nearest first; as if it were one of another ``agent``, if that is named."""
    kind, spec = cell.device.partition(":")[0], "" if agent else cell.spec_hash or ""
    whole = (agent or cell.agent, cell.task, kind)
    return (*whole, cell.physics, spec), (*whole, cell.physics), whole


def median(speeds: Iterable[CellSpeed]) -> CellSpeed:
    """The medians of ``speeds``."""
    return CellSpeed(*map(statistics.median, zip(*speeds, strict=True)))


@dataclass
class SpeedTable:
    """Speeds of agents on tasks, as results tell them."""

    known: dict[Key, list[CellSpeed]] = field(default_factory=dict)
    """By agent's file stem, task and kind of device; by the physics too; and by the specification's digest too."""

    def read(self, folders: Iterable[Path]) -> SpeedTable:
        """Add the results of the studies in ``folders``; what cannot be read tells nothing."""
        for folder in folders:
            for path in sorted(folder.glob(f"cells/*/{RESULT}")):
                held = read_if_valid(path, CellSpeedRecord)
                if held and (training := held.training) and training.env_steps > 0 < training.seconds_total:
                    seconds = training.seconds_total
                    if held.device.startswith("cpu") and training.seconds_cpu:
                        # a busy machine's wall says little of the next
                        seconds = min(seconds, training.seconds_cpu)
                    acting = (
                        training.seconds_simulation + training.seconds_inference
                    ) / training.seconds_total
                    step = seconds / training.env_steps
                    steps = held.evaluation.steps if held.evaluation else 0.0
                    for key in make_lookup_keys(held):
                        self.known.setdefault(key, []).append(CellSpeed(step, acting * step * steps))
        return self

    def lookup(self, cell: Cell, specs: Mapping[str, TaskSpec]) -> tuple[CellSpeed, str] | None:
        """(speed of a ``cell``, where it is from); None where nothing is known of the task.

        Args:
            cell: One that was trained or is to be; of random actions, it takes what the reference's evaluation does.
            specs: Tasks' files by label.
        """
        for key, source in zip(make_lookup_keys(cell), SOURCES, strict=True):
            if own := self.known.get(key):
                return median(own), source
        kind, spec = cell.device.partition(":")[0], specs.get(cell.task)
        base = next(
            (known for key in make_lookup_keys(cell, REFERENCE)[1:] if (known := self.known.get(key))), None
        )
        if base:
            speed, source = median(base), f"results of {REFERENCE}"
        elif spec is not None and spec.steps_per_second.get(kind):
            speed, source = CellSpeed(1.0 / spec.steps_per_second[kind], 0.0), "the task's file"
        else:
            return None
        if cell.agent == REFERENCE or not cell.is_trained:
            return speed, source
        factor = self._factor(cell.agent, kind)
        if factor is None:
            return speed, f"{source}, as if the agent were {REFERENCE}"
        return (
            CellSpeed(*(factor * seconds for seconds in speed)),
            f"{source}, times what the agent takes elsewhere",
        )

    def _factor(self, agent: str, kind: str) -> float | None:
        """How many times the reference's time an agent takes, over tasks and physics in which both are known."""
        ratios = [
            median(speeds).training / median(self.known[REFERENCE, *where]).training
            for (name, *where), speeds in self.known.items()
            if name == agent and where[1] == kind and len(where) == 3 and (REFERENCE, *where) in self.known
        ]
        return statistics.fmean(ratios) if ratios else None


def estimate_cells(
    cells: Iterable[Cell], study: Study, speeds: SpeedTable, specs: Mapping[str, TaskSpec]
) -> tuple[list[Cell], set[str]]:
    """The cells with their seconds, None where nothing is known; and where the numbers are from.

    Args:
        cells: Cells of the study.
        study: Whose budget each has.
        speeds: What results tell.
        specs: Tasks' files by label.
    """
    parse_conditions = find_host(study.tasks[0]).parse_conditions
    timed, sources = list[Cell](), set[str]()
    rows = study.episodes * len(parse_conditions(",".join(study.conditions)))
    for cell in cells:
        speed = speeds.lookup(cell, specs)
        seconds: float | None = OVERHEAD + (rows * speed[0].evaluation if speed else 0.0)
        if cell.is_trained and study.budget is not None and study.budget.kind == "wall":
            seconds += study.budget.amount
        elif cell.is_trained and cell.env_steps is not None and speed is not None:
            seconds += speed[0].training * cell.env_steps / cell.processes
            sources |= {speed[1]}
        elif cell.is_trained:
            seconds = None
        timed.append(cell.model_copy(update={"seconds": seconds}))
    return timed, sources


def compute_remaining_seconds(
    cells: Mapping[str, Cell], finished_seconds: Mapping[str, float], running_seconds: Mapping[str, float]
) -> float | None:
    """Seconds of work that are left; None where nothing is known of a cell.

    They are the estimates, corrected by what finished cells took of theirs; without one, what a finished cell took.

    Args:
        cells: All cells, by name.
        took: Seconds that finished ones took, by name.
        ran: Seconds for which the others have run so far, by name.
    """
    guesses = {name: cells[name].seconds for name in finished_seconds}
    known = [(finished_seconds[name], guess) for name, guess in guesses.items() if guess]
    factor = sum(seconds for seconds, _ in known) / sum(guess for _, guess in known) if known else 1.0
    alike = [seconds for name, seconds in finished_seconds.items() if cells[name].is_trained]
    total = 0.0
    for name, seconds in running_seconds.items():
        guess = cells[name].seconds
        if guess is None and not alike:
            return None
        total += (statistics.fmean(alike) if guess is None else guess * factor) - seconds
    return total
