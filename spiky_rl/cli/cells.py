"""Output of compare.py: a study's plan, a live table of cells at work, and how they ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.cli.display import TerminalDisplay
from spiky_rl.config.progress import format_duration
from spiky_rl.experiments.design import seeds
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.comparison import StudyRun
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, WAITING
from spiky_rl.experiments.run.progress import StudyProgress

if TYPE_CHECKING:
    from rich.console import RenderableType

STATUS_TEXT = 12
"""Cells in the live table."""
STYLES = {BROKEN: "red", DONE: "green", RUNNING: "bold"}
"""Colours of states."""
REFRESH = 0.5
"""Seconds between two looks at the running cells' progress."""


def print_plan(plan: StudyRun, whole: bool) -> None:
    """The design and its time; ``whole``: and a line per cell."""
    study, cells, finished = plan.study, plan.cells, plan.finished
    if study.question:
        print(study.question)
    agents = {cell.label for cell in cells if cell.is_trained}
    tasks = {cell.task for cell in cells}
    print(
        f"{len(agents)} agents x {len(tasks)} tasks x {len(study.seeds)} seeds, and random actions per task:"
        f" {len(cells)} cells, {len(finished)} of them finished"
    )
    print(f"budget: {"the tasks' own numbers of iterations" if study.budget is None else study.budget.text}")
    if plan.remaining:
        print(f"time left: about {plan.time_left}")
    print(f"folder: {plan.folder}\n")
    for cell in cells if whole else ():
        state = DONE if cell.name in finished else WAITING
        seconds = "unknown" if cell.seconds is None else format_duration(cell.seconds)
        print(f"{cell.hash}  spec {cell.spec_hash or '-':16}  {state:8}  {seconds:>8}  {cell.name}")
        for command in cell.commands:
            print(f"    {command}")


def print_missing_lines(out: Path, study: Study, use: str = seeds.TESTING) -> None:
    """Print the lines that the file on seeds lacks of a ``study`` in the folder ``out``, and of its ``use`` of them."""
    if lines := seeds.list_missing_lines(out, study, use):
        print(
            f"add to {seeds.find_file(out)}, behind the task's other uses:", *lines, sep="\n    ", end="\n\n"
        )


class CellTable(TerminalDisplay):
    """Context manager; call it with the states of the cells at work, as often as you like."""

    def __init__(self, plan: StudyRun) -> None:
        self.out, self.course, self.looked = plan.folder, StudyProgress(plan), 0.0

    def __call__(self, states: Mapping[str, str]) -> None:
        """Show the states; where there is no terminal, a line for each that changed."""
        for name in self.course.update(states):
            if self.live is None:
                print(self._line(name), flush=True)
        now = time.monotonic()
        if self.live is not None and now - self.looked > REFRESH:
            self.looked = now
            self.live.update(self.render())

    def _line(self, name: str) -> str:
        course = self.course
        time_left = "" if course.states[name] == RUNNING else f"  {course.remaining_time} left"
        took = f" in {course.took[name]:.0f} s" if name in course.took else ""
        return f"[{course.ended}/{len(course.cells)}] {name}: {course.states[name]}{took}{time_left}"

    def render(self) -> RenderableType:
        """The table, with running cells first."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Rows
        from rich.text import Text

        course = self.course
        rows = Rows(box=None, padding=(0, 2), pad_edge=False)
        for title in ("cell", "state", "progress", "return", "steps/s"):
            rows.add_column(title, justify="left" if title in ("cell", "state") else "right", no_wrap=True)
        for name in course.list_recent(STATUS_TEXT):
            state = course.states[name]
            seen = folders.read_progress(self.out / "cells" / name) if name in course.begun else None
            value = seen and seen.mean_return
            rows.add_row(
                name,
                Text(state, style=STYLES.get(state, "")),
                f"{1.0 if state == DONE else seen.share if seen else 0.0:.0%}",
                "-" if value is None else f"{value:.2f}",
                f"{seen.steps_per_second:,.0f}" if seen else "-",
            )
        summary = ", ".join(f"{count} {state}" for state, count in course.counts.items() if count)
        progress = ProgressBar(total=len(course.cells), completed=course.ended, width=60)
        return Group(rows, Text(), progress, Text(f"{summary}; {course.remaining_time} left"))


def print_end(out: Path, states: Mapping[str, str], interrupted: bool) -> None:
    """Print what became of the cells; for those that failed, the end of their errors."""
    for name in sorted(name for name, state in states.items() if state == BROKEN):
        folder = out / "cells" / name
        print(f"\n{name} failed; {folder / folders.ERROR}")
        for line in folders.read_error(folder).splitlines()[-6:]:
            print(f"    {line}")
    counts = {state: list(states.values()).count(state) for state in dict.fromkeys(states.values())}
    print("\n" + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    if interrupted or set(counts) - {DONE}:
        print("run the same command again to go on")
