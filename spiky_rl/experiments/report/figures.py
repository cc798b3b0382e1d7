"""The figures of a study's report; each function draws one, or None where there is nothing to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Protocol

from matplotlib.patches import Rectangle

from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis
from spiky_rl.experiments.analysis.statistics import Band, Interval
from spiky_rl.experiments.report.drawing import (
    DOTTED,
    PALE,
    WIDTH,
    FigureSheet,
    draw_interval,
    fit_label,
    format_tick,
    place_labels,
    spread_positions,
    text_width,
)
from spiky_rl.metrics.energy import MAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (
    *("#0b66b0", "#c8500a", "#08805b", "#b5478f", "#6a4fb3", "#937000", "#0a7d8f", "#a3262a"),
    *("#55801a", "#d1366f", "#34509c", "#84503c", "#00695f", "#3f6f7d", "#7a7a12", "#8e2f8a"),
)
"""Colours of agents that spike, in the study's order; all dark enough for text on white."""
GREYS = ("#000000", "#5a5a5a", "#767676")
"""Colours of ANNs, the baseline first."""
LINE, MANY = 0.235, 6
"""Inches of a row of a list; lines in one panel, more get a panel each, beside the baseline's line."""
SPANS = 8.0
"""How many times the least the largest of some estimates may be before their axis is logarithmic."""


class AgentLabels(Protocol):
    """Parts of an analysis that figures which name agents need."""

    @property
    def labels(self) -> Sequence[str]: ...  # pylint: disable=missing-function-docstring

    @property
    def anns(self) -> Sequence[str]: ...  # pylint: disable=missing-function-docstring

    @property
    def baseline(self) -> str | None: ...  # pylint: disable=missing-function-docstring


def assign_colors(analysis: AgentLabels) -> dict[str, str]:
    """One colour per label of an ``analysis``, the same in all figures."""
    anns = sorted(analysis.anns, key=lambda label: label != analysis.baseline)
    spiking = [label for label in analysis.labels if label not in anns]
    grey = {label: GREYS[min(i, len(GREYS) - 1)] for i, label in enumerate(anns)}
    return grey | {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(spiking)}


def learning_curves(analysis: StudyAnalysis, task: str) -> FigureSheet | None:
    """Return while training on a ``task``, over environment steps, with its interval over seeds, as ``analysis`` has it."""
    bands = {label: band for (label, other), band in analysis.curves.items() if other == task}
    bands = {label: bands[label] for label in analysis.labels if label in bands}
    return draw_lines(
        analysis, bands, "environment steps", "return while training", 0.0, analysis.solved.get(task)
    )


def draw_profiles(analysis: StudyAnalysis) -> FigureSheet | None:
    """Share of runs of an ``analysis`` that score above, over the score."""
    unit = "normalised score" if analysis.normalised else "score (return)"
    left = min((float(band.at[0]) for band in analysis.profiles.values()), default=0.0)
    return draw_lines(analysis, analysis.profiles, unit, "share of runs above", left, most=0)


def draw_lines(
    analysis: StudyAnalysis,
    bands: Mapping[str, Band],
    across: str,
    up: str,
    left: float,
    mark: float | None = None,
    most: int = MANY,
) -> FigureSheet | None:
    """One panel with labels beside its lines, or a panel for each line where there are many.

    Args:
        analysis: Whose agents have the lines.
        bands: Lines by label.
        across: What x is.
        up: What y is.
        left: Where x begins.
        mark: A value of y that is to be reached; None: none.
        most: Lines of a single panel.
    """
    values = [
        v for b in bands.values() for ends in (b.low, b.estimate, b.high) for v in ends if math.isfinite(v)
    ]
    if not values:
        return None
    values += [] if mark is None else [mark]
    spare = 0.05 * (max(values) - min(values) or 1.0)
    low, high, colour = min(values) - spare, max(values) + spare, assign_colors(analysis)
    right = max(float(band.at[-1]) for band in bands.values())

    def draw(axes: Axes, drawn: Mapping[str, bool]) -> None:
        axes.set(xlim=(left, right), ylim=(low, high))
        axes.xaxis.set_major_formatter(format_tick)
        if mark is not None:
            axes.axhline(mark, **DOTTED)
        for label, strong in drawn.items():
            band = bands[label]
            if strong and all(math.isfinite(v) for v in (*band.low[-1:], *band.high[-1:])):
                axes.fill_between(band.at, band.low, band.high, color=colour[label], alpha=0.18, linewidth=0)
            dashes: dict[str, Any] = {} if strong else {"linestyle": (0, (3, 2)), "linewidth": 1.0}
            axes.plot(band.at, band.estimate, color=colour[label], **dashes)

    if len(bands) <= most:
        height, margin = 3.2, max(text_width(fit_label(label)) for label in bands) + 0.25
        sheet = FigureSheet(height + 0.65)
        axes = sheet.panel(0.62, 0.1, WIDTH - 0.62 - margin, height)
        draw(axes, dict.fromkeys(bands, True))
        axes.set(xlabel=across, ylabel=up)
        inch, places = (high - low) / height, {
            label: float(band.estimate[-1]) for label, band in bands.items()
        }
        for label, place in spread_positions(places, 0.17 * inch, high).items():
            axes.annotate(
                fit_label(label), (right, places[label]), (8, (place - places[label]) / inch * 72), color=colour[label],
                textcoords="offset points", va="center", fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        return sheet
    columns, height, gap = min(4, len(bands)), 1.3, 0.42
    sheet = FigureSheet(math.ceil(len(bands) / columns) * (height + gap) + 0.35)
    width = (WIDTH - 0.72 - (columns - 1) * 0.22) / columns
    for i, label in enumerate(bands):
        row, column = divmod(i, columns)
        axes = sheet.panel(0.62 + column * (width + 0.22), 0.3 + row * (height + gap), width, height)
        draw(axes, {**({str(analysis.baseline): False} if analysis.baseline in bands else {}), label: True})
        axes.set_title("\n".join(wrap(fit_label(label, 48), 26)), color=colour[label], pad=4)
        lowest = i + columns >= len(bands)
        axes.tick_params(labelbottom=lowest, labelleft=column == 0)
        axes.set(xlabel=across if lowest else "", ylabel=up if column == 0 else "")
    return sheet


def aggregate(analysis: StudyAnalysis) -> FigureSheet:
    """Interquartile means of an ``analysis`` over all tasks and per task, best first."""
    panels = {}
    if ALL in analysis.comparisons or (len(analysis.tasks) > 1 and analysis.overall):
        panels[ALL, "normalised score"] = analysis.overall
    for task in analysis.tasks:
        panels[task, "score (return)"] = {
            label: row.iqm for (label, t), row in analysis.rows.items() if t == task
        }
    return draw_intervals(analysis, panels, 1.0 if len(panels) > len(analysis.tasks) else None)


def improvement(analysis: StudyAnalysis) -> FigureSheet | None:
    """Probability that a run of an agent scores above one of the baseline of an ``analysis``, best first."""
    panels = {
        (name, "P(above the baseline)"): {c.agent: c.improvement for c in family}
        for name, family in analysis.comparisons.items()
        if family
    }
    return draw_intervals(analysis, panels, 0.5, (-0.02, 1.02)) if panels else None


def draw_intervals(
    analysis: StudyAnalysis,
    panels: Mapping[tuple[str, str], Mapping[str, Interval]],
    mark: float | None,
    limits: tuple[float, float] | None = None,
) -> FigureSheet:
    """Estimates with whiskers in panels beside each other, in the first panel's order.

    Args:
        analysis: Whose agents they are of.
        panels: By title and unit, estimates by label.
        mark: A value of x to draw a line at, in the first panel, or in all where there are ``limits``.
        limits: Ends of x; None: as the estimates ask for.
    """
    first = next(iter(panels.values()))
    named = [label for label in analysis.labels if any(label in panel for panel in panels.values())]
    named.sort(key=lambda label: -first[label].estimate if label in first else math.inf)
    sheet, axes = make_row_sheet(analysis, named, list(panels))
    for i, (panel, intervals) in enumerate(zip(axes, panels.values(), strict=True)):
        if mark is not None and (i == 0 or limits):
            panel.axvline(mark, **DOTTED)
        if limits:
            panel.set_xlim(*limits)
        for label, interval in intervals.items():
            draw_interval(panel, named.index(label), interval, assign_colors(analysis)[label])
    return sheet


def draw_ladder(analysis: StudyAnalysis, task: str) -> FigureSheet | None:
    """Draw return, energy of a metre and processor seconds of the agents on a ``task``, in the study's order; None without agents."""
    rows = {label: row for label in analysis.labels if (row := analysis.rows.get((label, task))) is not None}
    price = next(iter(MAIN))
    found = {
        ("return", "mean over seeds"): {label: row.mean for label, row in rows.items()},
        ("energy of a metre", f"µJ, {price}"): {label: row.metre.get(price) for label, row in rows.items()},
        ("compute of a training", "processor seconds"): {label: row.processor for label, row in rows.items()},
    }
    panels = {title: own for title, own in found.items() if any(own.values())}
    if not rows:
        return None
    sheet, axes = make_row_sheet(analysis, list(rows), list(panels))
    for panel, intervals in zip(axes, panels.values(), strict=True):
        estimates = [interval.estimate for interval in intervals.values() if interval is not None]
        if 0.0 < SPANS * min(estimates) < max(estimates):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
        if (own := intervals.get(str(analysis.baseline))) is not None:
            panel.axvline(own.estimate, **DOTTED)
        for y, (label, interval) in enumerate(intervals.items()):
            if interval is not None:
                draw_interval(panel, y, interval, assign_colors(analysis)[label])
    return sheet


def draw_thresholds(analysis: StudyAnalysis) -> FigureSheet | None:
    """Environment steps until trainings of an ``analysis`` reached what counts as solved: runs, medians, and how many never did."""
    tasks = [task for task in analysis.tasks if task in analysis.solved]
    ends = {key: row.threshold for key, row in analysis.rows.items() if row.threshold is not None}
    if not tasks or not ends:
        return None

    def order(label: str) -> list[float]:
        rows = [ends[label, task] for task in tasks if (label, task) in ends]
        return [v for row in rows for v in (math.inf if row.median is None else row.median, -row.reached)]

    named = sorted((label for label in analysis.labels if order(label)), key=order)
    panels = [(task, f"environment steps to a return of {analysis.solved[task]:g}") for task in tasks]
    sheet, axes = make_row_sheet(analysis, named, panels)
    for panel, task in zip(axes, tasks, strict=True):
        end = max(row.budget for (_, other), row in ends.items() if other == task)
        panel.set_xlim(0, end * 1.16)
        panel.xaxis.set_major_formatter(lambda value, _, end=end: format_tick(value) if value <= end else "")
        panel.axvline(end, color="#b4bac1", linewidth=0.8)
        for y, label in enumerate(named):
            if (row := ends.get((label, task))) is None:
                continue
            colour, missed = assign_colors(analysis)[label], row.runs - row.reached
            panel.plot(
                row.steps, [y] * row.reached, "o", color=colour, markersize=4.5, alpha=0.5, markeredgewidth=0
            )
            if row.median is not None:
                panel.plot([row.median], [y], "|", color=colour, markersize=13, markeredgewidth=2)
            if missed:
                panel.plot([end * 1.035], [y], ">", color=colour, markersize=5, markerfacecolor="white")
                panel.text(end * 1.06, y, f"{missed} of {row.runs}", va="center", color=colour, fontsize=8)
    return sheet


def make_row_sheet(
    analysis: AgentLabels, named: Sequence[str], panels: Sequence[tuple[str, str]]
) -> tuple[FigureSheet, list[Axes]]:
    """A sheet with panels beside each other and a row for each label, named once.

    Args:
        analysis: Whose agents they are.
        named: Labels of the rows, from the top.
        panels: Title and unit of each.
    """
    left, height = max(text_width(fit_label(label)) for label in named) + 0.15, LINE * len(named) + 0.1
    sheet, drawn = FigureSheet(height + 0.85), []
    width = (WIDTH - left - 0.15 - (len(panels) - 1) * 0.25) / len(panels)
    for i, (title, across) in enumerate(panels):
        axes = sheet.panel(left + i * (width + 0.25), 0.32, width, height)
        axes.set(ylim=(len(named) - 0.4, -0.6), title=title, xlabel=across)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        name_rows(analysis, axes, named, i == 0)
        for y in range(0, len(named), 2):
            axes.axhspan(y - 0.5, y + 0.5, color=PALE, linewidth=0, zorder=0)
        drawn.append(axes)
    return sheet, drawn


def name_rows(
    analysis: AgentLabels, axes: Axes, named: Sequence[str], shown: bool, middle: float = 0.0
) -> None:
    """Write labels in their colours beside rows that are 1 high.

    Args:
        analysis: Whose agents they are.
        axes: The panel.
        named: Labels of the rows.
        shown: Whether to write them; else there is room for none.
        middle: Where in a row its label stands.
    """
    axes.set_yticks(
        [y + middle for y in range(len(named))], [fit_label(label) if shown else "" for label in named]
    )
    axes.tick_params(axis="y", length=0)
    for text, label in zip(axes.get_yticklabels(), named, strict=True):
        text.set_color(assign_colors(analysis)[label])


def pareto(analysis: StudyAnalysis, task: str, price: str) -> FigureSheet | None:
    """Score on a ``task`` over the energy of a control step under a ``price``, and the front of agents that no other beats in both."""
    points, leading = analysis.get_energy_and_score(task, price), analysis.get_pareto_front(task, price)
    if len(points) < 2 or min(x for x, _ in points.values()) <= 0:
        return None
    width, height = WIDTH - 0.82, 3.9
    logs = [math.log10(x) for x, _ in points.values()]
    left, right = min(logs) - 0.15, max(logs) + 0.35
    ends = [v for _, y in points.values() for v in (y.low, y.estimate, y.high) if math.isfinite(v)]
    spare = max(ends) - min(ends) or 1.0
    low, high = min(ends) - 0.08 * spare, max(ends) + 0.16 * spare
    sheet = FigureSheet(height + 0.65)
    axes = sheet.panel(0.62, 0.1, width, height)
    axes.set(xscale="log", xlim=(10**left, 10**right), ylim=(low, high), ylabel="score (return)")
    axes.set_xlabel(f"energy of a control step in nJ, {price}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    narrow = right - left < 1.0  # hardly a power of ten in sight: some numbers between them are told too
    axes.xaxis.set_minor_formatter(
        lambda value, _: f"{value:,.12g}" if narrow and f"{value:.1e}"[0] in "235" else ""
    )
    front = sorted((points[label][0], points[label][1].estimate) for label in leading)
    ups = zip([low, *(y for _, y in front)], front, strict=False)
    stairs = [*((x, y) for before, (x, after) in ups for y in (before, after)), (10**right, front[-1][1])]
    axes.plot(*zip(*stairs, strict=True), color="#aeb5bd", linewidth=1.2, zorder=1)

    def inches(x: float, y: float) -> tuple[float, float]:
        return (math.log10(x) - left) / (right - left) * width, (y - low) / (high - low) * height

    corners = [inches(*corner) for corner in stairs]
    segments = list(itertools.pairwise(corners))
    segments += [(inches(x, y.low), inches(x, y.high)) for x, y in points.values() if math.isfinite(y.low)]
    drawn = [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in segments]
    places = {label: inches(x, y.estimate) for label, (x, y) in points.items()}
    for label, (dx, dy) in place_labels(places, drawn, width, height).items():
        (x, y), colour = points[label], assign_colors(analysis)[label]
        draw_interval(axes, y.estimate, Interval(x, math.nan, math.nan), colour)
        if math.isfinite(y.low):
            axes.plot([x, x], [y.low, y.high], color=colour, linewidth=1.0, alpha=0.5)
        axes.annotate(
            fit_label(label), (x, y.estimate), (72 * dx, 72 * dy), textcoords="offset points", va="center", color=colour,
            fontsize=8, fontweight="bold" if label in leading else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
    return sheet


def robustness(analysis: StudyAnalysis) -> FigureSheet | None:
    """Share of the undisturbed score that is left under each condition, as a map of the agents and conditions of an ``analysis``."""
    conditions = [name for name in analysis.conditions if name != "nominal"]
    if not analysis.remaining:
        return None
    named, left = analysis.labels, max(text_width(fit_label(label)) for label in analysis.labels) + 0.15
    columns = min(len(analysis.tasks), max(1, int((WIDTH - left) / (0.66 * len(conditions) + 0.2))))
    cell = min(0.85, ((WIDTH - left) / columns - 0.2) / len(conditions))
    width, height = cell * len(conditions), LINE * len(named)
    upright = max(text_width(word, 8) for name in conditions for word in name.split("_")) > cell
    above = 0.4 + max(text_width(name, 8) for name in conditions) if upright else 0.7
    sheet = FigureSheet(math.ceil(len(analysis.tasks) / columns) * (height + above + 0.05) + 0.1)
    for i, task in enumerate(analysis.tasks):
        down, across = divmod(i, columns)
        top = above + down * (height + above + 0.05)
        axes = sheet.panel(left + across * (width + 0.2), top, width, height)
        axes.set(xlim=(0, len(conditions)), ylim=(len(named), 0))
        axes.set_title(task, pad=72 * (above - 0.28))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        names = [name.replace("_", " " if upright else "\n") for name in conditions]
        axes.set_xticks([x + 0.5 for x in range(len(names))], names, size=8, rotation=90 if upright else 0)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        name_rows(analysis, axes, named, across == 0, 0.5)
        for y, label in enumerate(named):
            for x, condition in enumerate(conditions):
                left_over = analysis.remaining.get((label, task, condition))
                share = None if left_over is None or left_over.share is None else left_over.share.estimate
                axes.add_patch(
                    Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, color=get_shade(share), linewidth=0)
                )
                text = "–" if share is None else f"{share:.0%}"
                axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8)
    return sheet


def get_shade(share: float | None) -> str:
    """Nearly white where a ``share`` of 1 is left, orange where nothing is; grey for None, where there was nothing to keep."""
    if share is None:
        return "#e6e9ec"
    lost = min(max(1.0 - share, 0.0), 1.0)
    return "#" + "".join(f"{round(a + (b - a) * lost):02x}" for a, b in ((246, 240), (247, 138), (249, 75)))
