"""What commands show while they work: training a live panel or a line per step, all others a bar or a line now and then."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TextIO

from spiky_rl.cli.common import log
from spiky_rl.config.shown import duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.progress import Progress, TaskID

    from spiky_rl.hosts.run.training import Step


QUIET_S = 30.0
"""Seconds between two lines of a `Bar` that has no terminal."""
WIDTH = 76
"""Characters of a panel."""


class Bar:
    """Context manager; call it with the share of the work that is done: a bar with the time left, on stderr.

    Where stderr is no terminal it logs a line every `QUIET_S` seconds. What is logged meanwhile stands above the bar.
    """

    def __init__(self, title: str, detail: str = "") -> None:
        self.title, self.detail = title, detail
        self.live: Progress | None = None
        self.task: TaskID | None = None
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Self:
        self.started = self.told = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            words = TextColumn("{task.description}", markup=False)
            detail = TextColumn("{task.fields[detail]}", markup=False)
            self.live = Progress(
                words, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), detail,
                console=Console(stderr=True), transient=True, redirect_stdout=False,
            )  # fmt: skip
            self.task = self.live.add_task(self.title, total=1.0, detail=self.detail)
            self.live.start()
            log_to(sys.stderr)  # which is rich's by now
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()
            log_to(sys.stderr)

    def __call__(self, share: float, detail: str | None = None) -> None:
        """Show that ``share`` of the work, in [0, 1], is done, and beside it ``detail`` in the place of what stood there."""
        self.detail = self.detail if detail is None else detail
        if self.live is not None and self.task is not None:
            self.live.update(self.task, completed=min(share, 1.0), detail=self.detail)
        elif (now := time.monotonic()) - self.told > QUIET_S:
            self.told = now
            left = (now - self.started) * (1.0 - share) / max(share, 1e-9)
            log.info("%s: %.0f %%, %s left  %s", self.title, 100.0 * share, duration(left), self.detail)


def log_to(stream: TextIO) -> None:
    """Let our messages go to ``stream``: one that is drawn on moves them out of its picture's way."""
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)


class Picture(ABC):
    """Context manager: what stands on stdout and is drawn anew in its place, where that is a terminal."""

    shown = True
    live: Live | None = None

    def __enter__(self) -> Self:
        if self.shown and sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
            from rich.live import Live

            self.live = Live(self.drawn(), refresh_per_second=4, transient=False)
            self.live.start()
            log_to(sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.update(self.drawn())
            self.live.stop()
            log_to(sys.stderr)

    @abstractmethod
    def drawn(self) -> RenderableType:
        """The picture as it is now."""


class Display(Picture):
    """Shows how a training goes: a panel, or without a terminal a line per step."""

    def __init__(self, title: str, word: str, shown: bool = True) -> None:
        """``word``: what a step is called."""
        self.title, self.word, self.shown = title, word, shown
        self.share, self.remaining = 0.0, ""
        self.rows: list[tuple[str, str]] = []
        self.course: list[float] = []
        """The value that matters most, of every epoch so far."""
        self.started = time.time()

    def show(self, share: float, line: str, rows: Sequence[tuple[str, str]], begun: float = 0.0) -> None:
        """Show a step.

        Args:
            share: Share of what there is to do that is done, in [0, 1].
            line: The step in one line.
            rows: Names and values of a panel; the first row counts the steps.
            begun: The share that was done before this display was made.
        """
        seconds = (time.time() - self.started) / max(share - begun, 1e-9) * (1.0 - share)
        self.share, self.rows, self.remaining = share, list(rows), duration(seconds)
        if self.live is not None:
            self.live.update(self.drawn())
        elif self.shown:
            print(f"{line}  {self.remaining} left", flush=True)

    def drawn(self) -> RenderableType:
        """The panel."""
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        if not self.rows:
            table.add_row("", f"waiting for the first {self.word}")
            return Panel(table, title=self.title, width=WIDTH)
        table.add_row(*self.rows[0])
        table.add_row("", ProgressBar(total=1.0, completed=self.share, width=48))
        for row in self.rows[1:]:
            table.add_row(*row)
        table.add_row("remaining", self.remaining)
        return Panel(table, title=self.title, width=WIDTH)


def show_iteration(display: Display, step: Step) -> None:
    """Show an iteration of a training."""
    iteration, first, counted = step.iteration, step.first, step.begun is None
    progress, activity = iteration.progress, iteration.activity
    firing = f"  firing {activity.rate:5.1%}" if activity.layers else ""
    of = f"/{iteration.last + 1}" if counted else ""
    line = (
        f"iteration {iteration.index + 1:4d}{of}  return {number(progress.returns[-1]):>8}"
        f"  length {number(progress.lengths[-1]):>7}{firing}  {iteration.steps_per_second:7,.0f} steps/s"
    )
    done = iteration.index - first + 1
    count = f"{done} of {iteration.last - first + 1}" if counted else str(done)
    rows = [
        ("iteration", count + (f" (number {iteration.index})" if first else "")),
        ("mean return", f"{number(progress.returns[-1])}   {sparkline(progress.returns)}"),
        ("episode length", f"{number(progress.lengths[-1])} control steps"),
    ]
    if activity.layers:
        layers = "  ".join(f"{layer.rate:.1%}" for layer in activity.layers)
        rows.append(("firing rate", f"{activity.rate:.1%}   by layer: {layers}"))
    rows.append(("operations", f"{activity.operations:,.0f} per control step"))
    rows.append(("speed", f"{iteration.steps_per_second:,.0f} steps/s"))
    display.show(step.share, line, rows, step.begun or 0.0)


def number(value: float) -> str:
    """Two decimals, or a dash before the first episode has ended."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """The course of a curve in one line of blocks."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return ""
    count = min(width, len(known))
    picked = [known[round(i * (len(known) - 1) / (count - 1))] for i in range(count)]
    low, span = min(picked), (max(picked) - min(picked)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[int((value - low) / span * 7)] for value in picked)
