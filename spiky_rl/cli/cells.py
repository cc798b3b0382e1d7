"""What compare.py and tune.py share: how cells run; and a study's plan, a live table of cells at work, and how they ended."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spiky_rl.cli import common
from spiky_rl.cli.display import Picture
from spiky_rl.config.arguments import amount, up_to
from spiky_rl.config.extras import require
from spiky_rl.config.shown import duration
from spiky_rl.experiments.run import cells as folders
from spiky_rl.experiments.run.comparison import Comparison
from spiky_rl.experiments.run.engines.base import BROKEN, DONE, RUNNING, STOPPED, WAITING
from spiky_rl.experiments.run.estimate import left
from spiky_rl.experiments.run.planning import Place

if TYPE_CHECKING:
    from rich.console import RenderableType

FEW = 4096
"""Cells at once, and processes of one, at most."""
SHOWN = 12
"""Cells in the live table."""
STYLES = {BROKEN: "red", DONE: "green", RUNNING: "bold"}
"""Colours of states."""
REFRESH = 0.5
"""Seconds between two looks at the running cells' progress."""


def add_cell_arguments(found: argparse.ArgumentParser, dry_run: str) -> None:
    """Where and how cells run: a `Place`'s; ``dry_run``: what a command does that runs nothing."""
    add = found.add_argument
    add("--parallel", type=up_to(FEW), default=Place.parallel, help="cells at once")
    add(
        "--device",
        help="cpu, cuda or cuda:N; default: the GPU if there is one; a --dry-run may plan for a GPU elsewhere",
    )
    common.add_assets(found, "where robots come from, of all cells")
    add("--engine", default=Place.engine, choices=["local", "ray"], help="what runs the cells")
    add("--ray_address", help="of a Ray cluster (auto, or host:port); default: one on this machine")
    add("--cell_cpus", type=amount, help="with ray: cores of a cell; default: one for each of its processes")
    add("--cell_gpus", type=amount, help="with ray: GPUs of a cell; default: one per process on cuda, else 0")
    add(
        "--distributed",
        type=up_to(FEW),
        default=Place.distributed,
        metavar="N",
        help="processes of a training, one per GPU or core, through torchrun",
    )
    add("--dry-run", "--dry_run", action="store_true", help=dry_run)
    common.add_verbose(found)


def require_report() -> None:
    """Raise UserError where what writes a report is not installed."""
    for module in ("jinja2", "matplotlib", "tensorboard"):
        require(module, "experiments")


def print_plan(plan: Comparison, whole: bool) -> None:
    """The design and its time; ``whole``: and a line per cell."""
    study, cells, finished, parallel = plan.study, plan.cells, plan.finished, plan.place.parallel
    if study.question:
        print(study.question)
    agents = {cell.label for cell in cells if cell.is_trained}
    tasks = {cell.task for cell in cells}
    print(
        f"{len(agents)} agents x {len(tasks)} tasks x {len(study.seeds)} seeds, and random actions per task:"
        f" {len(cells)} cells, {len(finished)} of them finished"
    )
    print(f"budget: {"the tasks' own numbers of iterations" if study.budget is None else study.budget.text}")
    if plan.left:
        known = [cell.seconds for cell in plan.left if cell.seconds is not None]
        text = f"{duration(sum(known) / parallel)} with {parallel} at once"
        if len(known) < len(plan.left):
            text += f", and {len(plan.left) - len(known)} cells of unknown length"
        sources = f" (from {'; '.join(sorted(plan.sources))})" if plan.sources else ""
        print(f"time left: about {text}{sources}")
    print(f"folder: {plan.out}\n")
    for cell in cells if whole else ():
        state = DONE if cell.name in finished else WAITING
        seconds = "unknown" if cell.seconds is None else duration(cell.seconds)
        print(f"{cell.hash}  spec {cell.spec_hash or '-':16}  {state:8}  {seconds:>8}  {cell.name}")
        for command in cell.commands:
            print(f"    {command}")


class Table(Picture):
    """Context manager; call it with the states of the cells at work, as often as you like."""

    def __init__(self, plan: Comparison) -> None:
        self.out, self.parallel = plan.out, plan.place.parallel
        self.cells = {cell.name: cell for cell in plan.cells}
        self.states = {name: DONE if name in plan.finished else WAITING for name in self.cells}
        self.begun = {cell: time.monotonic() for cell in plan.finished}
        self.took: dict[str, float] = {}
        self.looked = 0.0

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
            self.live.update(self.drawn())

    def _line(self, name: str) -> str:
        time_left = "" if self.states[name] == RUNNING else f"  {self._left()} left"
        took = f" in {self.took[name]:.0f} s" if name in self.took else ""
        return f"[{self._ended()}/{len(self.cells)}] {name}: {self.states[name]}{took}{time_left}"

    def _counts(self) -> dict[str, int]:
        states = list(self.states.values())
        return {state: states.count(state) for state in (DONE, RUNNING, WAITING, BROKEN, STOPPED)}

    def _ended(self) -> int:
        return sum(state in (DONE, BROKEN, STOPPED) for state in self.states.values())

    def _left(self) -> str:
        now = time.monotonic()
        took = {name: seconds for name, seconds in self.took.items() if self.states[name] == DONE}
        ran = {name: 0.0 for name, state in self.states.items() if state == WAITING}
        ran |= {name: now - self.begun[name] for name, state in self.states.items() if state == RUNNING}
        seconds = left(self.cells, took, ran)
        return "unknown" if seconds is None else duration(max(0.0, seconds / self.parallel))

    def drawn(self) -> RenderableType:
        """The table, with running cells first."""
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
                Text(self.states[name], style=STYLES.get(self.states[name], "")),
                f"{share:.0%}",
                "-" if value is None else f"{value:.2f}",
                f"{seen['steps_per_second']:,.0f}" if seen else "-",
            )
        summary = ", ".join(f"{count} {state}" for state, count in self._counts().items() if count)
        return Group(
            rows,
            Text(),
            ProgressBar(total=len(self.cells), completed=self._ended(), width=60),
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
