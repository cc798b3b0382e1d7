"""The figures of a study's report; each function returns one, or None without data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.measures import ThresholdSummary
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, keep_known, sort_by_estimate
from spiky_rl.experiments.analysis.statistics import Band, Interval
from spiky_rl.experiments.report.drawing import (
    DOT,
    DOTTED,
    LINE,
    MUTED,
    WIDTH,
    add_legend,
    draw_interval,
    fit_label,
    format_tick,
    make_logarithmic,
    make_rows,
    make_grid,
    name_rows,
)
from spiky_rl.metrics.energy import MAIN_ENERGY_MODELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (
    *("#0b66b0", "#c8500a", "#08805b", "#b5478f", "#6a4fb3", "#937000", "#0a7d8f", "#a3262a"),
    *("#55801a", "#d1366f", "#34509c", "#84503c", "#00695f", "#3f6f7d", "#7a7a12", "#8e2f8a"),
)
"""Colours of agents that spike, in the study's order; all dark enough for text on white."""
GREYS = ("#000000", "#5a5a5a", "#767676")
"""Colours of ANNs, the baseline first."""
SHADES = LinearSegmentedColormap.from_list("kept", ("#f08a4b", "#f6f7f9")).with_extremes(bad="#e6e9ec")
"""Colours of shares from 0 (orange) to 1 (nearly white); grey without a share."""
MAX_LINES = 6
"""Lines in one panel; more lines get a panel each, beside the baseline's line."""
MAX_RATIO = 8.0
"""Ratio of the largest to the least estimate from which on their axis is logarithmic."""


def assign_colors(
    labels: Iterable[str], anns: Collection[str], baseline: str | None = None
) -> dict[str, str]:
    """Return a colour for each of the ``labels``, the same in all figures: greys for ``anns``, the ``baseline`` first."""
    grey = sorted(anns, key=lambda label: label != baseline)
    ann_colours = {label: GREYS[min(i, len(GREYS) - 1)] for i, label in enumerate(grey)}
    spiking = [label for label in labels if label not in ann_colours]
    return ann_colours | {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(spiking)}


def get_colors(analysis: StudyAnalysis) -> dict[str, str]:
    """Return the colours of the agents of an ``analysis`` by label."""
    return assign_colors(analysis.labels, analysis.anns, analysis.baseline)


def draw_learning_curves(analysis: StudyAnalysis, task: str) -> Figure | None:
    """Draw the return while training on a ``task`` over environment steps, with its interval over seeds."""
    bands = {label: band for (label, other), band in analysis.curves.items() if other == task}
    bands = {label: bands[label] for label in analysis.labels if label in bands}
    unit = "return while training"
    return draw_lines(analysis, bands, "environment steps", unit, 0.0, analysis.solved.get(task))


def draw_profiles(analysis: StudyAnalysis) -> Figure | None:
    """Draw the share of runs that score above a value, over that value."""
    unit = "normalised score" if analysis.is_normalised else "score (return)"
    left = min((float(band.at[0]) for band in analysis.profiles.values()), default=0.0)
    return draw_lines(analysis, analysis.profiles, unit, "share of runs above", left, max_lines=0)


def draw_lines(
    analysis: StudyAnalysis,
    bands: Mapping[str, Band],
    x_unit: str,
    y_unit: str,
    left: float,
    mark: float | None = None,
    max_lines: int = MAX_LINES,
) -> Figure | None:
    """Draw all ``bands`` in one panel; if they are more than ``max_lines``, draw each in its own, beside the baseline's.

    x begins at ``left``; ``mark`` is the y of a dotted line.
    """
    if not any(np.isfinite(band.estimate).any() for band in bands.values()):
        return None
    colours, right = get_colors(analysis), max(float(band.at[-1]) for band in bands.values())
    if len(bands) <= max_lines:
        figure, panels = _draw_in_one_panel(bands, colours)
    else:
        figure, panels = _draw_in_own_panels(bands, colours, str(analysis.baseline))
    for axes in panels:
        axes.set_xlim(left, right)
        axes.xaxis.set_major_formatter(format_tick)
        if mark is not None:
            axes.axhline(mark, **DOTTED)
    figure.supxlabel(x_unit, color=MUTED)
    figure.supylabel(y_unit, color=MUTED)
    return figure


def _draw_in_one_panel(bands: Mapping[str, Band], colours: Mapping[str, str]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, 3.85))
    axes = figure.add_subplot()
    for label in sorted(bands, key=lambda label: -np.nan_to_num(bands[label].estimate[-1])):
        _draw_band(axes, label, bands[label], colours[label])
    add_legend(figure)
    return figure, [axes]


def _draw_in_own_panels(
    bands: Mapping[str, Band], colours: Mapping[str, str], baseline: str
) -> tuple[Figure, list[Axes]]:
    columns = min(4, len(bands))
    figure, panels = make_grid(len(bands), columns, 1.72, 0.35, sharex=True)
    for i, (axes, label) in enumerate(zip(panels, bands, strict=True)):
        if baseline in bands and label != baseline:
            dashed = {"linestyle": (0, (3, 2)), "linewidth": 1.0}
            axes.plot(bands[baseline].at, bands[baseline].estimate, color=colours[baseline], **dashed)
        _draw_band(axes, label, bands[label], colours[label])
        axes.set_title("\n".join(wrap(fit_label(label, 48), 26)), color=colours[label])
        axes.tick_params(labelbottom=i + columns >= len(bands))
    return figure, panels


def _draw_band(axes: Axes, label: str, band: Band, colour: str) -> None:
    """Draw a line and, if its end has bounds, the area between them."""
    if math.isfinite(band.low[-1]) and math.isfinite(band.high[-1]):
        axes.fill_between(band.at, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(band.at, band.estimate, color=colour, label=fit_label(label))


def draw_scores(analysis: StudyAnalysis) -> Figure:
    """Draw interquartile means over all tasks and per task, best first."""
    panels = {}
    if ALL in analysis.families:
        panels[ALL, "normalised score"] = analysis.overall
    for task in analysis.tasks:
        panels[task, "score (return)"] = {row.label: row.iqm for row in analysis.get_task_rows(task)}
    return draw_intervals(analysis, panels, 1.0 if len(panels) > len(analysis.tasks) else None)


def draw_improvement(analysis: StudyAnalysis) -> Figure | None:
    """Draw the probability that a run of an agent scores above one of the baseline, best first."""
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
) -> Figure:
    """Draw estimates by label in ``panels`` of these titles and units side by side, in the order of the first panel.

    ``mark`` is the x of a dotted line in the first panel, or in all panels if there are ``limits`` of x.
    """
    first, colours = next(iter(panels.values())), get_colors(analysis)
    labels = sort_by_estimate(keep_known(analysis.labels, set().union(*panels.values())), first)
    figure, drawn = make_rows(labels, list(panels), colours)
    for i, (axes, intervals) in enumerate(zip(drawn, panels.values(), strict=True)):
        if mark is not None and (i == 0 or limits):
            axes.axvline(mark, **DOTTED)
        if limits:
            axes.set_xlim(*limits)
        for label, interval in intervals.items():
            draw_interval(axes, labels.index(label), interval, colours[label])
    return figure


def draw_ladder(analysis: StudyAnalysis, task: str) -> Figure | None:
    """Draw return, energy per metre and processor seconds of the agents on a ``task``, in the study's order."""
    rows, model, colours = analysis.get_task_rows(task), next(iter(MAIN_ENERGY_MODELS)), get_colors(analysis)
    if not rows:
        return None
    all_panels = {
        ("return", "mean over seeds"): [row.mean for row in rows],
        ("energy of a metre", f"µJ, {model}"): [row.energy_per_metre.get(model) for row in rows],
        ("compute of a training", "processor seconds"): [row.processor for row in rows],
    }
    panels = {title: intervals for title, intervals in all_panels.items() if any(intervals)}
    figure, panel_axes = make_rows([row.label for row in rows], list(panels), colours)
    for axes, intervals in zip(panel_axes, panels.values(), strict=True):
        labelled = [(row.label, interval) for row, interval in zip(rows, intervals, strict=True)]
        _draw_ladder_panel(axes, labelled, analysis.baseline, colours)
    return figure


def _draw_ladder_panel(
    axes: Axes,
    intervals: Sequence[tuple[str, Interval | None]],
    baseline: str | None,
    colours: Mapping[str, str],
) -> None:
    """Draw the known ``intervals`` of (label, interval), a line for each label, and a dotted line at the ``baseline``."""
    estimates = []
    for y, (label, interval) in enumerate(intervals):
        if interval is None:
            continue
        estimates.append(interval.estimate)
        if label == baseline:
            axes.axvline(interval.estimate, **DOTTED)
        draw_interval(axes, y, interval, colours[label])
    if 0.0 < MAX_RATIO * min(estimates) < max(estimates):
        make_logarithmic(axes)


def draw_thresholds(analysis: StudyAnalysis) -> Figure | None:
    """Draw the environment steps until trainings reached the task's threshold: runs, medians, and the number of runs that never did."""
    thresholds = {
        task: {row.label: row.threshold for row in analysis.get_task_rows(task) if row.threshold}
        for task in analysis.solved
    }
    if not thresholds:
        return None
    labels, colours = _rank_by_threshold(analysis.labels, thresholds.values()), get_colors(analysis)
    panels = [(task, f"environment steps to a return of {analysis.solved[task]:g}") for task in thresholds]
    figure, panel_axes = make_rows(labels, panels, colours)
    for axes, own in zip(panel_axes, thresholds.values(), strict=True):
        end = max(threshold.budget for threshold in own.values())
        _mark_end(axes, end)
        for y, label in enumerate(labels):
            if label in own:
                _draw_threshold(axes, y, own[label], end, colours[label])
    return figure


def _mark_end(axes: Axes, end: float) -> None:
    """Draw a line at the ``end`` of the budget, and leave room without numbers beyond it."""
    axes.set_xlim(0, end * 1.16)
    axes.xaxis.set_major_formatter(lambda value, _: format_tick(value) if value <= end else "")
    axes.axvline(end, color="#b4bac1", linewidth=0.8)


def _rank_by_threshold(
    labels: Iterable[str], thresholds: Collection[Mapping[str, ThresholdSummary]]
) -> list[str]:
    """Return the ``labels`` that have a threshold on some task, the fastest first; ``thresholds`` are those of each task by label."""

    def rank(label: str) -> list[tuple[float, int]]:
        found = [own[label] for own in thresholds if label in own]
        return [(math.inf if t.median is None else t.median, -t.reached) for t in found]

    with_threshold = [label for label in labels if any(label in own for own in thresholds)]
    return sorted(with_threshold, key=rank)


def _draw_threshold(axes: Axes, y: float, threshold: ThresholdSummary, end: float, colour: str) -> None:
    """Draw runs and median at height ``y``, and beyond the ``end`` of the budget the number of runs that never reached it."""
    dots: dict[str, Any] = {"markersize": 4.5, "alpha": 0.5, "markeredgewidth": 0}
    axes.plot(threshold.steps, [y] * threshold.reached, "o", color=colour, **dots)
    if threshold.median is not None:
        axes.plot([threshold.median], [y], "|", markersize=13, markeredgewidth=2, color=colour)
    if missed := threshold.runs - threshold.reached:
        axes.plot([end * 1.035], [y], ">", markersize=5, markerfacecolor="white", color=colour)
        axes.text(end * 1.06, y, f"{missed} of {threshold.runs}", va="center", fontsize=8, color=colour)


def draw_pareto(analysis: StudyAnalysis, task: str, model: str) -> Figure | None:
    """Draw the score on a ``task`` over the energy of a control step under a ``model``, and the front of agents that no other beats in both."""
    points, front = analysis.get_energy_and_score(task, model), analysis.get_pareto_front(task, model)
    if len(points) < 2 or min(x for x, _ in points.values()) <= 0:
        return None
    figure, colours = Figure(figsize=(WIDTH, 4.5)), get_colors(analysis)
    axes = figure.add_subplot()
    axes.set(xlabel=f"energy of a control step in nJ, {model}", ylabel="score (return)")
    for label, (x, y) in sorted(points.items(), key=lambda item: item[1][0]):
        if math.isfinite(y.low):
            axes.plot([x, x], [y.low, y.high], color=colours[label], linewidth=1.0, alpha=0.5)
        axes.plot([x], [y.estimate], "o", color=colours[label], label=fit_label(label), **DOT)
    energies = [x for x, _ in points.values()]
    ends = min(energies) / 10**0.15, max(energies) * 10**0.15
    steps = sorted((points[label][0], points[label][1].estimate) for label in front)
    # the front goes on to the right edge at the highest score
    front_x, front_y = zip(*steps, (ends[1], steps[-1][1]), strict=True)
    axes.step(front_x, front_y, where="post", color="#aeb5bd", linewidth=1.2, zorder=1)
    axes.set_xlim(*ends)
    make_logarithmic(axes)
    add_legend(figure, [fit_label(label) for label in front])
    return figure


def draw_robustness(analysis: StudyAnalysis) -> Figure | None:
    """Draw the share of the undisturbed score that is left under each condition, as a map of agents and conditions."""
    conditions = [name for name in analysis.conditions if name != "nominal"]
    if not analysis.remaining:
        return None
    labels, colours = analysis.labels, get_colors(analysis)
    columns = min(len(analysis.tasks), max(1, int(8.6 / (0.66 * len(conditions)))))
    is_upright = columns * len(conditions) > 10
    names = [name.replace("_", " " if is_upright else "\n") for name in conditions]
    above = 0.5 + (0.075 * max(map(len, names)) if is_upright else 0.3)
    figure, panels = make_grid(len(analysis.tasks), columns, LINE * len(labels) + above)
    for axes in panels[::columns]:
        name_rows(axes, labels, colours, 0.5)
    for axes, task in zip(panels, analysis.tasks, strict=True):
        _draw_map(axes, _tabulate_shares(analysis, task, conditions))
        axes.set_title(task)
        axes.set_xticks(np.arange(len(names)) + 0.5, names, size=8, rotation=90 if is_upright else 0)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def _draw_map(axes: Axes, shares: np.ndarray) -> None:
    """Draw ``shares`` [rows, columns] as coloured cells with their numbers, the first row on top."""
    rows, columns = shares.shape
    axes.pcolormesh(
        np.ma.masked_invalid(shares), cmap=SHADES, vmin=0.0, vmax=1.0, edgecolors="white", linewidth=1.5
    )
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (y, x), share in np.ndenumerate(shares):
        text = "–" if math.isnan(share) else f"{share:.0%}"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8)


def _tabulate_shares(analysis: StudyAnalysis, task: str, conditions: Sequence[str]) -> np.ndarray:
    """Return the shares that are left of the score on a ``task`` [labels, conditions]; nan where nothing is known."""
    shares = np.full((len(analysis.labels), len(conditions)), math.nan)
    for (y, label), (x, name) in itertools.product(enumerate(analysis.labels), enumerate(conditions)):
        left = analysis.remaining.get((label, task, name))
        if left is not None and left.share is not None:
            shares[y, x] = left.share.estimate
    return shares
