"""What commands show while they work: training a live panel or a line per iteration, all others a bar or a line now and then."""

from __future__ import annotations

import datetime
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spiky_rl.cli.common import log

if TYPE_CHECKING:
    from spiky_rl.hosts.common.runner import Iteration, Progress

QUIET_S = 30.0
"""Seconds between two lines of a `Bar` that has no terminal."""


class Bar:
    """Context manager; call it with the share of the work that is done: a bar with the time left, on stderr.

    Where stderr is no terminal it logs a line every `QUIET_S` seconds. What is logged meanwhile stands above the bar.
    """

    def __init__(self, title: str, detail: str = "") -> None:
        self.title, self.detail = title, detail
        self.live: Any = None
        self.task: Any = None
        self.started = self.told = time.monotonic()

    def __enter__(self) -> Bar:
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
        if self.live is not None:
            self.live.update(self.task, completed=min(share, 1.0), detail=self.detail)
        elif (now := time.monotonic()) - self.told > QUIET_S:
            self.told = now
            left = (now - self.started) * (1.0 - share) / max(share, 1e-9)
            log.info("%s: %.0f %%, %s left  %s", self.title, 100.0 * share, duration(left), self.detail)


def log_to(stream: Any) -> None:
    """Let our messages go to ``stream``: one that is drawn on moves them out of its picture's way."""
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)


def duration(seconds: float) -> str:
    """As hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Display:
    """Context manager; call it with every iteration."""

    def __init__(
        self,
        title: str,
        first: int,
        last: int,
        shown: bool = True,
        share: Callable[[Progress], float] | None = None,
    ) -> None:
        """``first`` and ``last`` iteration; where a budget ends the run instead, ``share`` tells how much of it is used."""
        self.title, self.first, self.last, self.shown, self.share = title, first, last, shown, share
        self.begun: float | None = None
        self.live: Any = None
        self.started = time.time()

    def __enter__(self) -> Display:
        if self.shown and sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self._panel(None), refresh_per_second=4, transient=False)
            self.live.start()
            log_to(sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()
            log_to(sys.stderr)

    def __call__(self, iteration: Iteration) -> None:
        """Show an iteration."""
        if self.live is not None:
            self.live.update(self._panel(iteration))
        elif self.shown:
            print(line(iteration, self._remaining(iteration), self.share is None), flush=True)

    def done(self, iteration: Iteration) -> float:
        """The share of what there was to do that is done, in [0, 1]."""
        if self.share is None:
            return (iteration.index - self.first + 1) / (self.last - self.first + 1)
        return min(self.share(iteration.progress), 1.0)

    def _remaining(self, iteration: Iteration) -> str:
        done = self.done(iteration)
        if self.begun is None:
            # a resumed run has used some of its budget already
            self.begun = 0.0 if self.share is None else done * (1.0 - 1.0 / len(iteration.progress.steps))
        seconds = (time.time() - self.started) / max(done - self.begun, 1e-9) * (1.0 - done)
        return duration(seconds)

    def _panel(self, iteration: Iteration | None) -> Any:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        if iteration is None:
            table.add_row("", "waiting for the first iteration")
            return Panel(table, title=self.title, width=76)
        progress = iteration.progress
        done = iteration.index - self.first + 1
        of = f" of {self.last - self.first + 1}" if self.share is None else ""
        table.add_row("iteration", f"{done}{of}" + (f" (number {iteration.index})" if self.first else ""))
        table.add_row("", ProgressBar(total=1.0, completed=self.done(iteration), width=48))
        table.add_row("mean return", f"{number(progress.returns[-1])}   {sparkline(progress.returns)}")
        table.add_row("episode length", f"{number(progress.lengths[-1])} control steps")
        if iteration.activity.layers:
            layers = "  ".join(f"{layer.rate:.1%}" for layer in iteration.activity.layers)
            table.add_row("firing rate", f"{iteration.activity.rate:.1%}   by layer: {layers}")
        table.add_row("operations", f"{iteration.activity.operations:,.0f} per control step")
        table.add_row("speed", f"{iteration.steps_per_second:,.0f} steps/s")
        table.add_row("remaining", self._remaining(iteration))
        return Panel(table, title=self.title, width=76)


def line(iteration: Iteration, remaining: str, counted: bool = True) -> str:
    """One iteration in one line; ``counted``: out of a known number."""
    progress, activity = iteration.progress, iteration.activity
    firing = f"  firing {activity.rate:5.1%}" if activity.layers else ""
    of = f"/{iteration.last + 1}" if counted else ""
    return (
        f"iteration {iteration.index + 1:4d}{of}  return {number(progress.returns[-1]):>8}"
        f"  length {number(progress.lengths[-1]):>7}{firing}  {iteration.steps_per_second:7,.0f} steps/s  {remaining} left"
    )


def number(value: float) -> str:
    """Two decimals, or a dash before the first episode has ended."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def sparkline(values: list[float], width: int = 32) -> str:
    """The course of a curve in one line of blocks."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return ""
    picked = [
        known[round(i * (len(known) - 1) / (min(width, len(known)) - 1))]
        for i in range(min(width, len(known)))
    ]
    low, span = min(picked), (max(picked) - min(picked)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[int((value - low) / span * 7)] for value in picked)
