"""Progress displays: a live panel or lines for a training, a bar or occasional lines for other work.

On a terminal a display is redrawn in place, with messages above it. Without a terminal a `TrainingDisplay` prints a line per iteration,
and a `ProgressBar` logs a line every thirty seconds.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TextIO

from spiky_rl.cli.common import log
from spiky_rl.config.progress import format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from spiky_rl.run.train import TrainingStep


LOG_INTERVAL_S = 30.0
"""Seconds between two lines of a `ProgressBar` without a terminal."""
WIDTH = 76
"""Width of a panel in characters."""
LINE_WIDTH = 100
"""Maximum width of a line without a terminal in characters."""
BLOCKS = "▁▂▃▄▅▆▇█"
"""Characters of a sparkline, from the lowest to the highest value."""
CURVE_WIDTH = 32
"""Maximum width of a sparkline in characters."""


class TerminalDisplay(ABC):
    """Context manager with a picture that is redrawn in place on a terminal; without a terminal nothing is drawn."""

    stream: Literal["stdout", "stderr"] = "stdout"
    transient = False
    """Whether the picture disappears when the work ends."""
    shown = True
    live: Live | None = None

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        if self.shown and getattr(sys, self.stream).isatty() and importlib.util.find_spec("rich") is not None:
            from rich.console import Console
            from rich.live import Live

            console, redirect = Console(stderr=self.stream == "stderr"), self.stream == "stdout"
            self.live = Live(
                self.render(), console=console, transient=self.transient, redirect_stdout=redirect
            )
            self.live.start()
            redirect_log(sys.stderr)  # rich has replaced it, so that messages appear above the picture
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.update(self.render())
            self.live.stop()
            redirect_log(sys.stderr)

    def format_remaining_time(self, share: float, initial_share: float = 0.0) -> str:
        """Return the estimated remaining time once ``share`` is completed, ``initial_share`` of it before the display opened."""
        seconds = (time.monotonic() - self.started) * (1.0 - share) / max(share - initial_share, 1e-9)
        return format_duration(seconds)

    @abstractmethod
    def render(self) -> RenderableType:
        """Render the present picture."""


def redirect_log(stream: TextIO) -> None:
    """Send the package's messages to ``stream``."""
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)


class ProgressBar(TerminalDisplay):
    """Progress bar on stderr; without a terminal, a message every `LOG_INTERVAL_S` seconds. Implements `ProgressCallback`."""

    stream, transient = "stderr", True

    def __init__(self, title: str, detail: str = "") -> None:
        self.title, self.detail, self.share = title, detail, 0.0
        self.last_logged_at = time.monotonic()

    def __call__(self, share: float, detail: str | None = None) -> None:
        """Show the completed ``share`` in [0, 1]; ``detail`` replaces the status text if it is given."""
        self.share = min(share, 1.0)
        if detail is not None:
            self.detail = detail
        if self.live is not None:
            self.live.update(self.render())
        elif (now := time.monotonic()) - self.last_logged_at > LOG_INTERVAL_S:
            self.last_logged_at = now
            log.info(
                "%s: %.0f %%, %s left  %s",
                self.title,
                100.0 * share,
                self.format_remaining_time(share),
                self.detail,
            )

    def render(self) -> RenderableType:
        """Render the bar."""
        from rich.progress_bar import ProgressBar as RichBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        time_left = f"{self.format_remaining_time(self.share)} left" if self.share else ""
        progress = RichBar(total=1.0, completed=self.share, width=40)
        line.add_row(Text(self.title), progress, f"{self.share:.0%}", time_left, Text(self.detail))
        return line


class DisplayRow(NamedTuple):
    """One row of a training display."""

    name: str
    value: str
    detail: str = ""
    """Further text for the panel; lines leave it out."""
    line: str = ""
    """Shorter text of the row in a line; empty: its name and value."""


class TrainingDisplay(TerminalDisplay):
    """Display of a training: a panel, or without a terminal a line per step, with the first rows that fit."""

    def __init__(self, title: str, shown: bool = True) -> None:
        self.title, self.shown = title, shown
        self.share, self.remaining = 0.0, ""
        self.rows: Sequence[DisplayRow] = ()

    def show(self, share: float, rows: Sequence[DisplayRow], initial_share: float = 0.0) -> None:
        """Show the ``rows`` of a step once ``share`` in [0, 1] is completed, ``initial_share`` of it before the display opened."""
        self.share, self.rows = share, rows
        self.remaining = self.format_remaining_time(share, initial_share)
        if self.live is not None:
            self.live.update(self.render())
        elif self.shown:
            print(format_line(rows, f"{self.remaining} left"), flush=True)

    def render(self) -> RenderableType:
        """Render the panel."""
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar as RichBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        for name, value, detail, _ in self.rows or [DisplayRow("", "waiting for the first step")]:
            table.add_row(name, f"{value.strip()}   {detail}")
        if self.rows:
            table.add_row("", RichBar(total=1.0, completed=self.share, width=48))
            table.add_row("remaining", self.remaining)
        return Panel(table, title=self.title, width=WIDTH)


class IterationDisplay(TrainingDisplay):
    """Display of a reinforcement learning run. Call it after every iteration."""

    def __call__(self, training_step: TrainingStep) -> None:
        """Show an iteration."""
        iteration = training_step.iteration
        progress, activity = iteration.progress, iteration.activity
        has_budget = training_step.initial_share is not None  # the number of iterations is then unknown
        total = "" if has_budget else f"/{iteration.last + 1}"
        layers = "  ".join(f"{layer.rate:.1%}" for layer in activity.layers)
        rows = [
            DisplayRow("iteration", f"{iteration.index + 1:4d}{total}"),
            DisplayRow(
                "return", f"{format_number(progress.returns[-1]):>8}", format_sparkline(progress.returns)
            ),
            DisplayRow(
                "length",
                f"{format_number(progress.lengths[-1]):>7}",
                "control steps",
                f"length {format_number(progress.lengths[-1], 0):>4}",
            ),
            *([DisplayRow("firing rate", f"{activity.rate:5.1%}", f"by layer: {layers}")] if layers else []),
            *(
                [DisplayRow("resets", f"{progress.worlds_reset:,}", "worlds with failed physics")]
                if progress.worlds_reset
                else []
            ),
            DisplayRow("speed", speed := f"{iteration.steps_per_second:7,.0f} steps/s", line=speed),
            DisplayRow(
                "effective ops/step",
                operations := f"{activity.operations:7,.0f}",
                line=f"ops/step {operations}",
            ),
        ]
        self.show(training_step.share, rows, training_step.initial_share or 0.0)


def format_line(rows: Sequence[DisplayRow], end: str) -> str:
    """Return the ``rows`` and the ``end`` in one line; later rows that would make it longer than `LINE_WIDTH` are left out."""
    line = ""
    for row in rows:
        text = f"{row.line or f'{row.name} {row.value}'}  "
        if len(line) + len(text) + len(end) <= LINE_WIDTH:
            line += text
    return line + end


def format_number(value: float, decimals: int = 2) -> str:
    """Format with ``decimals``, or as a dash if NaN (no episode has ended yet)."""
    return "-" if math.isnan(value) else f"{value:.{decimals}f}"


def format_sparkline(values: Sequence[float]) -> str:
    """Draw a curve as one line of at most `CURVE_WIDTH` block characters."""
    finite = [value for value in values if not math.isnan(value)]
    if len(finite) < 2:
        return ""
    count = min(CURVE_WIDTH, len(finite))
    points = [finite[round(i * (len(finite) - 1) / (count - 1))] for i in range(count)]
    low = min(points)
    span = (max(points) - low) or 1.0
    return "".join(BLOCKS[int((value - low) / span * (len(BLOCKS) - 1))] for value in points)
