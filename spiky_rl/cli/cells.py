"""Output of ``spiky compare``: the plan of a study, a live table of its cells, and their outcome."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.cli.display import TerminalDisplay
from spiky_rl.cli.tables import print_columns
from spiky_rl.config.progress import format_count, format_duration
from spiky_rl.experiments.design import seeds
from spiky_rl.experiments.design.grid import Cell
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.comparison import StudyRun
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, WAITING
from spiky_rl.experiments.run.progress import StudyProgress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MAX_ROWS = 12
"""Maximum number of cells in the live table."""
STYLES = {BROKEN: "red", DONE: "green", RUNNING: "bold"}
"""State of a cell -> style of its text."""
MAX_PLAN_LINES = 28
"""Maximum lines for the cells of a dry run, whose output then has at most 40 lines."""
REFRESH_INTERVAL_S = 0.5
"""Seconds between two updates of the live table."""


def print_plan(plan: StudyRun, is_dry_run: bool, every_cell: bool) -> None:
    """Print the design and its estimated time; a dry run prints the cells too.

    Cells are printed with their commands if they are few or ``every_cell``, otherwise a line per agent and task.
    """
    study, cells, finished = plan.study, plan.cells, plan.finished
    if study.question:
        print(study.question)
    agents = {cell.label for cell in cells if cell.trains_agent}
    tasks = {cell.task for cell in cells}
    print(
        f"{format_count(len(agents), 'agent')} x {format_count(len(tasks), 'task')} x {format_count(len(study.seeds), 'seed')}, plus"
        f" random actions on each task: {format_count(len(cells), 'cell')}, {len(finished)} finished"
    )
    print(f"budget: {"the tasks' own numbers of iterations" if study.budget is None else study.budget.text}")
    if plan.remaining:
        print(f"remaining time: about {plan.time_left}")
    print(f"folder: {plan.folder}\n")
    if is_dry_run:
        print_cells(cells, finished, every_cell)


def print_groups(cells: Sequence[Cell], finished: Collection[str]) -> None:
    """Print a line per agent and task: its cells, the finished ones, and the time of all."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.label), []).append(cell)
    rows = [("task", "agent", "cells", "finished", "time")]
    for (task, label), group in groups.items():
        times = [cell.seconds for cell in group if cell.seconds is not None]
        time_text = format_duration(sum(times)) if len(times) == len(group) else "unknown"
        done = sum(cell.name in finished for cell in group)
        rows.append((task, label, str(len(group)), str(done), time_text))
    max_rows = MAX_PLAN_LINES - 3  # three lines follow
    print_columns(rows[:max_rows])
    if len(rows) > max_rows:
        print(f"and {format_count(len(rows) - max_rows, 'more pair')} of agent and task")
    print("\nevery cell with its commands: add --verbose")


def print_cells(cells: Sequence[Cell], finished: Collection[str], every_cell: bool) -> None:
    """Print the cells with their commands, or their groups if they are many, unless ``every_cell``."""
    if not every_cell and sum(1 + len(cell.commands) for cell in cells) > MAX_PLAN_LINES:
        print_groups(cells, finished)
        return
    for cell in cells:
        state = DONE if cell.name in finished else WAITING
        seconds = "unknown" if cell.seconds is None else format_duration(cell.seconds)
        print(f"{cell.hash}  spec {cell.spec_hash or '-':16}  {state:8}  {seconds:>8}  {cell.name}")
        for command in cell.commands:
            print(f"    {command}")


def print_missing_lines(out: Path, study: Study, use: str = seeds.TESTING) -> None:
    """Print the lines that the register of seeds lacks for a study in the folder ``out``."""
    if lines := seeds.list_missing_lines(out, study, use):
        print(
            f"add to {seeds.find_file(out)}, after the task's other lines:", *lines, sep="\n    ", end="\n\n"
        )


class CellTable(TerminalDisplay):
    """Live table of the cells of a study. Call it with the state of every cell after each change."""

    def __init__(self, plan: StudyRun) -> None:
        self.out, self.progress, self.updated_at = plan.folder, StudyProgress(plan), 0.0

    def __call__(self, states: Mapping[str, str]) -> None:
        """Show the states; without a terminal, print a line per changed cell."""
        for name in self.progress.update(states):
            if self.live is None:
                print(self._format_line(name), flush=True)
        now = time.monotonic()
        if self.live is not None and now - self.updated_at > REFRESH_INTERVAL_S:
            self.updated_at = now
            self.live.update(self.render())

    def _format_line(self, name: str) -> str:
        progress = self.progress
        time_left = "" if progress.states[name] == RUNNING else f"  {progress.remaining_time} left"
        duration = f" in {progress.durations[name]:.0f} s" if name in progress.durations else ""
        return (
            f"[{progress.ended}/{len(progress.cells)}] {name}: {progress.states[name]}{duration}{time_left}"
        )

    def _format_row(self, name: str) -> tuple[str | Text, ...]:
        """Return name, state, progress, return and speed of a cell as text; dashes before its first iteration."""
        from rich.text import Text

        state = self.progress.states[name]
        text, done = Text(state, style=STYLES.get(state, "")), float(state == DONE)
        last = folders.read_progress(self.out / "cells" / name) if name in self.progress.started_at else None
        if last is None:
            return name, text, f"{done:.0%}", "-", "-"
        value = "-" if last.mean_return is None else f"{last.mean_return:.2f}"
        return name, text, f"{max(done, last.share):.0%}", value, f"{last.steps_per_second:,.0f}"

    def render(self) -> RenderableType:
        """Render the table, running cells first."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Rows
        from rich.text import Text

        progress = self.progress
        rows = Rows(box=None, padding=(0, 2), pad_edge=False)
        for title in ("cell", "state", "progress", "return", "steps/s"):
            rows.add_column(title, justify="left" if title in ("cell", "state") else "right", no_wrap=True)
        for name in progress.list_recent(MAX_ROWS):
            rows.add_row(*self._format_row(name))
        summary = ", ".join(f"{count} {state}" for state, count in progress.counts.items() if count)
        progress_bar = ProgressBar(total=len(progress.cells), completed=progress.ended, width=60)
        return Group(rows, Text(), progress_bar, Text(f"{summary}; {progress.remaining_time} left"))


def print_end(out: Path, states: Mapping[str, str], interrupted: bool) -> None:
    """Print how many cells ended in which state, and the last lines of the error of each failed cell."""
    for name in sorted(name for name, state in states.items() if state == BROKEN):
        folder = out / "cells" / name
        print(f"\n{name} failed; {folder / folders.ERROR}")
        for line in (folders.read_error_lines(folder) or ["it was killed and left no message"])[-6:]:
            print(f"    {line}")
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    print("\n" + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if interrupted or set(counts) - {DONE}:
        print("run the same command again to resume")
