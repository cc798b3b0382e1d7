"""What ``compare.py`` shows: its plan, a live table of cells at work, and how they ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, STOPPED, WAITING
from spiky_rl.experiments.run.estimate import duration

SHOWN = 12
"""Cells in the live table."""
REFRESH = 0.5
"""Seconds between two looks at the running cells' progress."""


def print_plan(
    study: Study, cells: Sequence[Cell], finished: Collection[str], sources: Collection[str], parallel: int,
    out: Path, whole: bool,
) -> None:  # fmt: skip
    """The design and its time; ``whole``: and a line per cell."""
    if study.question:
        print(study.question)
    trained = [cell for cell in cells if cell.is_trained]
    labels = list(dict.fromkeys(cell.label for cell in trained))
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    print(
        f"{len(labels)} agents x {len(tasks)} tasks x {len(study.seeds)} seeds, and random actions per task:"
        f" {len(cells)} cells, {len(finished)} of them finished"
    )
    print(f"budget: {"the tasks' own numbers of iterations" if study.budget is None else study.budget.text}")
    left = [cell for cell in cells if cell.name not in finished]
    known = [cell.seconds for cell in left if cell.seconds is not None]
    if left:
        text = f"{duration(sum(known) / parallel)} with {parallel} at once"
        if len(known) < len(left):
            text += f", and {len(left) - len(known)} cells of unknown length"
        print(f"time left: about {text}" + (f" (from {'; '.join(sorted(sources))})" if sources else ""))
    print(f"folder: {out}\n")
    if whole:
        for cell in cells:
            state = DONE if cell.name in finished else WAITING
            seconds = "unknown" if cell.seconds is None else duration(cell.seconds)
            print(f"{cell.hash}  spec {cell.spec_hash or '-':16}  {state:8}  {seconds:>8}  {cell.name}")
            for command in cell.commands:
                print(f"    {command}")


class Table:
    """Context manager; call it with the states of the cells at work, as often as you like."""

    def __init__(self, out: Path, cells: Sequence[Cell], finished: Collection[str], parallel: int) -> None:
        self.out, self.parallel = out, parallel
        self.cells = {cell.name: cell for cell in cells}
        self.states = {cell.name: DONE if cell.name in finished else WAITING for cell in cells}
        self.begun = {cell: time.monotonic() for cell in finished}
        self.took: dict[str, float] = {}
        self.live: Any = None
        self.looked = 0.0

    def __enter__(self) -> Table:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self._panel(), refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.update(self._panel())
            self.live.stop()

    def __call__(self, states: Mapping[str, str]) -> None:
        """Show the states; where there is no terminal, a line for each that changed."""
        now = time.monotonic()
        for name, state in states.items():
            if state == self.states[name]:
                continue
            self.states[name] = state
            if state == RUNNING:
                self.begun[name] = now
            else:
                self.took[name] = now - self.begun[name]
            if self.live is None:
                print(self._line(name), flush=True)
        if self.live is not None and now - self.looked > REFRESH:
            self.looked = now
            self.live.update(self._panel())

    def _line(self, name: str) -> str:
        counts = self._counts()
        ended = counts[DONE] + counts[BROKEN] + counts[STOPPED]
        time_left = "" if self.states[name] == RUNNING else f"  {self._left()} left"
        took = f" in {self.took[name]:.0f} s" if name in self.took else ""
        return f"[{ended}/{len(self.cells)}] {name}: {self.states[name]}{took}{time_left}"

    def _counts(self) -> dict[str, int]:
        states = list(self.states.values())
        return {state: states.count(state) for state in (DONE, RUNNING, WAITING, BROKEN, STOPPED)}

    def _left(self) -> str:
        """Time left: estimates, corrected by what finished cells took of theirs; without one, what a finished cell took."""
        took = {name: seconds for name, seconds in self.took.items() if self.states[name] == DONE}
        guesses = {name: self.cells[name].seconds for name in took}
        known = [(took[name], guess) for name, guess in guesses.items() if guess]
        factor = sum(seconds for seconds, _ in known) / sum(guess for _, guess in known) if known else 1.0
        alike = [seconds for name, seconds in took.items() if self.cells[name].is_trained]
        left = 0.0
        for name in (name for name, state in self.states.items() if state in (WAITING, RUNNING)):
            guess = self.cells[name].seconds
            if guess is None and not alike:
                return "unknown"
            left += sum(alike) / len(alike) if guess is None else guess * factor
            left -= time.monotonic() - self.begun[name] if self.states[name] == RUNNING else 0.0
        return duration(max(0.0, left / self.parallel))

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Rows
        from rich.text import Text

        rows = Rows(box=None, padding=(0, 2), pad_edge=False)
        for title in ("cell", "state", "progress", "return", "steps/s"):
            rows.add_column(title, justify="left" if title in ("cell", "state") else "right", no_wrap=True)
        order = (RUNNING, BROKEN, STOPPED, DONE, WAITING)
        names = sorted(self.states, key=lambda name: order.index(self.states[name]))
        recent = sorted((n for n in self.took if self.states[n] != RUNNING), key=lambda n: -self.begun[n])
        running = [name for name in names if self.states[name] == RUNNING]
        waiting = [name for name in names if self.states[name] == WAITING]
        for name in (running + recent + waiting)[:SHOWN]:
            seen = folders.progress(self.out / "cells" / name) if name in self.begun else {}
            value = seen.get("mean_return")
            share = 1.0 if self.states[name] == DONE else seen.get("share", 0.0)
            rows.add_row(
                name,
                Text(
                    self.states[name],
                    style={BROKEN: "red", DONE: "green", RUNNING: "bold"}.get(self.states[name], ""),
                ),
                f"{share:.0%}",
                "-" if value is None else f"{value:.2f}",
                f"{seen['steps_per_second']:,.0f}" if seen else "-",
            )
        counts = self._counts()
        ended = counts[DONE] + counts[BROKEN] + counts[STOPPED]
        summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return Group(
            rows,
            Text(),
            ProgressBar(total=len(self.cells), completed=ended, width=60),
            Text(f"{summary}; {self._left()} left"),
        )


def print_end(out: Path, states: Mapping[str, str], interrupted: bool) -> None:
    """What became of the cells; of those that failed, the end of their errors."""
    for name in sorted(name for name, state in states.items() if state == BROKEN):
        path = out / "cells" / name / folders.ERROR
        text = (
            path.read_text(encoding="utf-8", errors="replace")
            if path.exists()
            else "it was killed, and left no word"
        )
        print(f"\n{name} failed; {path}")
        for line in text.splitlines()[-6:]:
            print(f"    {line}")
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    print("\n" + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if interrupted or set(counts) - {DONE}:
        print("run the same command again to go on")
