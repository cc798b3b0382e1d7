"""How long cells will take: from results of the same agents and tasks, else from what a task's file says of its speed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spiky_rl.config.options import Record
from spiky_rl.config.schema import TaskSpec
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run.cells import RESULT, if_whole

OVERHEAD = 25.0
"""Seconds for which a cell starts its two simulators and evaluates."""
REFERENCE = "mlp_ppo"
"""The agent that the tasks' files speak of."""


class Duration(Record):
    """Fields of a training's result that tell its speed."""

    seconds_total: float
    env_steps: float
    seconds_cpu: float | None = None


class Timed(Record):
    """Fields of a cell's result that tell its speed."""

    agent: str
    task: str
    device: str
    training: Duration | None


@dataclass
class Speeds:
    """Seconds per environment step, simulation and learning together, as results tell them."""

    known: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    """By agent's file stem, task and kind of device."""

    def read(self, folders: Iterable[Path]) -> Speeds:
        """Add the results of the studies in ``folders``; what cannot be read tells nothing."""
        for folder in folders:
            for path in sorted(folder.glob(f"cells/*/{RESULT}")):
                held = if_whole(path, Timed)
                if held and (training := held.training) and training.env_steps > 0:
                    kind, seconds = held.device.partition(":")[0], training.seconds_total
                    if (
                        kind == "cpu" and training.seconds_cpu
                    ):  # a busy machine's wall says little of the next
                        seconds = min(seconds, training.seconds_cpu)
                    key = (held.agent, held.task, kind)
                    self.known.setdefault(key, []).append(seconds / training.env_steps)
        return self

    def of(
        self, agent: str, task: str, device: str, specs: Mapping[str, TaskSpec]
    ) -> tuple[float, str] | None:
        """(seconds per environment step, where the number is from); None where nothing is known of the task.

        Args:
            agent: File stem.
            task: The task's label.
            device: Such as ``cpu`` or ``cuda:0``.
            specs: Tasks' files by label.
        """
        kind = device.partition(":")[0]
        if own := self.known.get((agent, task, kind)):
            return statistics.median(own), "results of the same agent and task"
        base = self.known.get((REFERENCE, task, kind))
        spec = specs.get(task)
        if base:
            seconds, source = statistics.median(base), f"results of {REFERENCE}"
        elif spec is not None and spec.steps_per_second.get(kind):
            seconds, source = 1.0 / spec.steps_per_second[kind], "the task's file"
        else:
            return None
        if agent == REFERENCE:
            return seconds, source
        factor = self._factor(agent, kind)
        if factor is None:
            return seconds, f"{source}, as if the agent were {REFERENCE}"
        return seconds * factor, f"{source}, times what the agent takes elsewhere"

    def _factor(self, agent: str, kind: str) -> float | None:
        """How many times the reference's time an agent takes, over the tasks on which both are known."""
        ratios = [
            statistics.median(values) / statistics.median(self.known[REFERENCE, task, kind])
            for (name, task, device), values in self.known.items()
            if name == agent and device == kind and (REFERENCE, task, kind) in self.known
        ]
        return statistics.fmean(ratios) if ratios else None


def estimated(
    cells: Iterable[Cell], study: Study, speeds: Speeds, specs: Mapping[str, TaskSpec]
) -> tuple[list[Cell], set[str]]:
    """The cells with their seconds, None where nothing is known; and where the numbers are from.

    Args:
        cells: Cells of the study.
        study: Whose budget each has.
        speeds: What results tell.
        specs: Tasks' files by label.
    """
    timed, sources = list[Cell](), set[str]()
    for cell in cells:
        seconds: float | None = OVERHEAD
        if cell.is_trained and study.budget is not None and study.budget.kind == "wall":
            seconds = OVERHEAD + study.budget.amount
        elif cell.is_trained and cell.env_steps is not None:
            speed = speeds.of(cell.agent, cell.task, cell.device, specs)
            seconds = None if speed is None else OVERHEAD + speed[0] * cell.env_steps / cell.processes
            sources |= set() if speed is None else {speed[1]}
        elif cell.is_trained:
            seconds = None
        timed.append(cell.model_copy(update={"seconds": seconds}))
    return timed, sources


def left(cells: Mapping[str, Cell], took: Mapping[str, float], ran: Mapping[str, float]) -> float | None:
    """Seconds of work that are left; None where nothing is known of a cell.

    They are the estimates, corrected by what finished cells took of theirs; without one, what a finished cell took.

    Args:
        cells: All cells, by name.
        took: Seconds that finished ones took, by name.
        ran: Seconds for which the others have run so far, by name.
    """
    guesses = {name: cells[name].seconds for name in took}
    known = [(took[name], guess) for name, guess in guesses.items() if guess]
    factor = sum(seconds for seconds, _ in known) / sum(guess for _, guess in known) if known else 1.0
    alike = [seconds for name, seconds in took.items() if cells[name].is_trained]
    total = 0.0
    for name, seconds in ran.items():
        guess = cells[name].seconds
        if guess is None and not alike:
            return None
        total += (statistics.fmean(alike) if guess is None else guess * factor) - seconds
    return total
