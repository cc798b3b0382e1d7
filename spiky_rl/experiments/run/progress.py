"""The progress of a study: the states of its cells, the time that each took, and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from statistics import fmean

from spiky_rl.config.progress import format_duration
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.run.comparison import StudyRun
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, STOPPED, WAITING


class StudyProgress:
    """States of the cells of a study, and the time that each took."""

    def __init__(self, plan: StudyRun) -> None:
        self.parallel = plan.place.parallel
        self.cells = {cell.name: cell for cell in plan.cells}
        self.states = {name: DONE if name in plan.finished else WAITING for name in self.cells}
        self.started_at: dict[str, float] = {}
        """Name of each cell that this command has started -> its start by the monotonic clock."""
        self.durations: dict[str, float] = {}
        """Name of each cell that has ended -> seconds that it took; in the order of their ends."""

    def update(self, states: Mapping[str, str]) -> Iterator[str]:
        """Store the ``states`` of cells; yield the name of each cell with a new state."""
        now = time.monotonic()
        for name, state in states.items():
            if state != self.states[name]:
                self.states[name] = state
                if state == RUNNING:
                    self.started_at[name] = now
                else:
                    self.durations[name] = now - self.started_at[name]
                yield name

    @property
    def counts(self) -> dict[str, int]:
        """The number of cells in each state."""
        states = list(self.states.values())
        return {state: states.count(state) for state in (DONE, RUNNING, WAITING, BROKEN, STOPPED)}

    @property
    def ended(self) -> int:
        """The number of cells that have ended."""
        return sum(state in (DONE, BROKEN, STOPPED) for state in self.states.values())

    @property
    def remaining_time(self) -> str:
        """The time until all trainings have ended, in words; ``unknown`` if nothing tells how long one of them takes."""
        total, now = 0.0, time.monotonic()
        for name, state in self.states.items():
            if state in (RUNNING, WAITING) and self.cells[name].trains_agent:
                expected = self._estimate_duration(self.cells[name])
                if expected is None:
                    return "unknown"
                elapsed = now - self.started_at[name] if state == RUNNING else 0.0
                total += max(0.0, expected - elapsed)
        return format_duration(total / self.parallel)

    def _estimate_duration(self, cell: Cell) -> float | None:
        """Return the mean seconds of finished trainings on the same task; without any, the estimate of the plan."""
        trained = [other for other in self.cells.values() if other.trains_agent and other.task == cell.task]
        ended = [other.name for other in trained if self.states[other.name] == DONE]
        durations = [self.durations[name] for name in ended if name in self.durations]
        return fmean(durations) if durations else cell.seconds

    def list_recent(self, count: int) -> list[str]:
        """Return the names of at most ``count`` cells: first running ones, then the last that ended, then waiting ones."""
        running = [name for name, state in self.states.items() if state == RUNNING]
        waiting = [name for name, state in self.states.items() if state == WAITING]
        return [*running, *reversed(self.durations), *waiting][:count]
