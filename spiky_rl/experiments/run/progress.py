"""How far the cells of a comparison are: their states, the time that each took, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from spiky_rl.config.progress import format_duration
from spiky_rl.experiments.run.comparison import StudyRun
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, STOPPED, WAITING
from spiky_rl.experiments.run.estimate import compute_remaining_seconds


class StudyProgress:
    """The cells of a comparison at work."""

    def __init__(self, plan: StudyRun) -> None:
        """Begin where some cells are finished and all others wait.

        Args:
            plan: The comparison.
        """
        self.parallel = plan.place.parallel
        self.cells = {cell.name: cell for cell in plan.cells}
        self.states = {name: DONE if name in plan.finished else WAITING for name in self.cells}
        self.begun = {cell: time.monotonic() for cell in plan.finished}
        """When each cell's work began, of those whose has."""
        self.took: dict[str, float] = {}
        """Seconds that ended cells took, by name."""

    def update(self, states: Mapping[str, str]) -> Iterator[str]:
        """Take the ``states`` of cells at work; yields the name of each whose state is another now."""
        now = time.monotonic()
        for name, state in states.items():
            if state != self.states[name]:
                self.states[name] = state
                if state == RUNNING:
                    self.begun[name] = now
                else:
                    self.took[name] = now - self.begun[name]
                yield name

    @property
    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        states = list(self.states.values())
        return {state: states.count(state) for state in (DONE, RUNNING, WAITING, BROKEN, STOPPED)}

    @property
    def ended(self) -> int:
        """How many cells have ended."""
        return sum(self.counts[state] for state in (DONE, BROKEN, STOPPED))

    @property
    def format_remaining_time(self) -> str:
        """The time that the others take, in words."""
        now = time.monotonic()
        took = {name: seconds for name, seconds in self.took.items() if self.states[name] == DONE}
        ran = {name: 0.0 for name, state in self.states.items() if state == WAITING}
        ran |= {name: now - self.begun[name] for name, state in self.states.items() if state == RUNNING}
        seconds = compute_remaining_seconds(self.cells, took, ran)
        return "unknown" if seconds is None else format_duration(max(0.0, seconds / self.parallel))

    def list_recent(self, count: int) -> list[str]:
        """The names of ``count`` cells at most: those that run, those that ended last, and those that wait."""
        running = [name for name, state in self.states.items() if state == RUNNING]
        recent = [name for name in self.took if self.states[name] != RUNNING]
        waiting = [name for name, state in self.states.items() if state == WAITING]
        return [*running, *sorted(recent, key=lambda name: -self.begun[name]), *waiting][:count]
