"""The first screen of a report: a picture of all comparisons, a sentence of verdicts for each, and what every agent returned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis
from spiky_rl.experiments.analysis.statistics import LEVEL, Interval
from spiky_rl.experiments.analysis.verdicts import Verdict
from spiky_rl.experiments.design.planned import ALPHA, count_deciding_seeds
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_count,
    format_fixed,
    format_intervals,
    make_figure,
    make_paragraph,
    probability,
    table,
)
from spiky_rl.experiments.report.drawing import DOTTED, INK, RULE, draw_interval, fit_label

NARROW = 5.4
"""Inches of the picture's width: its text stays legible on a phone."""
ROW, HEADING = 0.27, 0.6
"""Inches of a comparison, and of an endpoint's name and axis."""
PRICES = ("fp32_sram", "int8_sram")
"""Energy models of the first table."""


def build_first_screen(analysis: StudyAnalysis) -> Iterable[Block]:
    """Verdicts of an ``analysis``, their picture, and returns per agent."""
    if analysis.verdicts:
        yield make_paragraph(describe_plan(analysis))
        yield from make_figure(
            "verdicts", "Advantage of the first agent in % of the second",
            f"Differences of paired seeds in % of the second agent's mean, with {100 * LEVEL:g} % intervals before any correction; right"
            f" of the line the first agent is better, also where less is better.{_describe_band(analysis)}",
            lambda: draw(analysis.verdicts, figures.get_colors(analysis)),
        )  # fmt: skip
        yield Block("list", items=list(sentences(analysis)))
    else:
        yield make_paragraph("Nothing is compared.")
    for task in analysis.tasks:
        yield make_agents_table(analysis, task)


def describe_plan(analysis: StudyAnalysis) -> str:
    """Return when the comparisons of an ``analysis`` were planned, and under which terms."""
    plan, verdicts = analysis.design.plan, analysis.verdicts
    if plan is None:
        return "No comparison was planned: what follows was looked at when the results were there."
    tests = verdicts[0].comparison.comparisons
    lowest = min(v.comparison.min_p_value for v in verdicts)
    pairs = max(v.comparison.pairs for v in verdicts)
    powerless = f" With {format_count(pairs, 'seed')} no test can decide anything; {count_deciding_seeds(tests, ALPHA)} can."
    commit = f" at commit {plan.commit[:10]}" if plan.commit else ""
    when = (
        f"before the first cell ({plan.date}{commit})"
        if verdicts[0].is_planned
        else f"after results were there ({plan.date}{commit})"
    )
    return (
        f"{format_count(len(plan.comparisons), 'comparison')} in {format_count(len(plan.endpoints), 'endpoint')} planned {when}, for"
        f" {format_count(len(plan.seeds), 'seed')}; Holm corrects {format_count(tests, 'test')} together; a difference below"
        f" {100 * plan.margin:g} % of the second agent's mean counts as none.{powerless if lowest >= ALPHA else ''}"
    )


def _describe_band(analysis: StudyAnalysis) -> str:
    margin = max((verdict.margin for verdict in analysis.verdicts), default=0.0)
    return f" Shaded: the margin of {100 * margin:g} %." if margin else ""


def sentences(analysis: StudyAnalysis) -> Iterable[tuple[str, str]]:
    """Yield each pair of agents that an ``analysis`` compares, and the sentence of its verdicts."""
    pairs = dict.fromkeys((v.comparison.agent, v.comparison.baseline) for v in analysis.verdicts)
    several = len({verdict.task for verdict in analysis.verdicts}) > 1
    for agent, baseline in pairs:
        own = [
            v for v in analysis.verdicts if (v.comparison.agent, v.comparison.baseline) == (agent, baseline)
        ]
        parts = [f"{_name_endpoint(v, several)} {describe(v)}" for v in own]
        yield f"{agent} against {baseline}:", "; ".join(parts) + "."


def _name_endpoint(verdict: Verdict, with_task: bool) -> str:
    """Return what a ``verdict`` compares, with its task where there are others."""
    if verdict.task == ALL:
        return f"normalised score over {ALL}"
    return f"{verdict.endpoint.label} on {verdict.task}" if with_task else verdict.endpoint.label


def describe(verdict: Verdict) -> str:
    """Return a ``verdict`` in words: ``better (8.1 [3.2, 12.4], 12 %, p 0.010)``, and what would decide one that is undecided."""
    compared, endpoint = verdict.comparison, verdict.endpoint
    if not compared.pairs:
        return "undecided (no seed has results of both)"
    difference = format_intervals([compared.difference], endpoint.scale, least=1)[0]
    difference += f" {endpoint.unit}" if endpoint.unit else ""
    if math.isfinite(share := verdict.relative.estimate) and verdict.task != ALL:
        difference += f", {format_fixed(100 * share, 0)} %"
    if verdict.text == "equivalent":
        within = f"equivalent within {100 * verdict.margin:g} %"
        return f"{within} ({difference}, p {probability(verdict.equivalence)})"
    need = _describe_need(verdict) if verdict.text == "undecided" else ""
    return f"{verdict.text} ({difference}, p {probability(compared.corrected)}{need})"


def _describe_need(verdict: Verdict) -> str:
    """Return how many seeds would decide an undecided ``verdict``, if things are as they look."""
    if abs(verdict.relative.estimate) < verdict.margin:
        seeds, claim = verdict.seeds_to_equate, "show it to be within the margin"
    else:
        seeds, claim = verdict.comparison.seeds_needed, "tell"
    return "" if seeds is None else f"; about {format_count(seeds, 'seed')} would {claim}"


def draw(verdicts: Sequence[Verdict], colours: Mapping[str, str]) -> Figure | None:
    """Draw advantages in %, a panel for each endpoint and task, a row for each pair; None if no pair has any.

    Args:
        verdicts: The comparisons.
        colours: Colours of agents by label.
    """
    panels: dict[str, list[Verdict]] = {}
    several = len({verdict.task for verdict in verdicts}) > 1
    for verdict in verdicts:
        if math.isfinite(verdict.relative.estimate):
            panels.setdefault(_name_endpoint(verdict, several), []).append(verdict)
    if not panels:
        return None
    has_one_baseline = len({verdict.comparison.baseline for verdict in verdicts}) == 1

    def name(verdict: Verdict) -> str:
        compared = verdict.comparison
        if has_one_baseline:
            return fit_label(compared.agent, 30)
        return f"{fit_label(compared.agent, 22)}\n− {fit_label(compared.baseline, 22)}"

    row = ROW if has_one_baseline else 1.4 * ROW
    heights = [row * len(rows) for rows in panels.values()]
    figure = Figure(figsize=(NARROW, sum(heights) + HEADING * len(panels)))
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        axes.set(title=title, ylim=(len(rows) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g} %".replace("-", "−") if value else "0")
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="x", labelsize=7.5, pad=2)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_yticks(range(len(rows)), [name(verdict) for verdict in rows], size=8.0)
        axes.tick_params(axis="y", length=0)
        if rows[0].margin:
            axes.axvspan(-100 * rows[0].margin, 100 * rows[0].margin, color=RULE, linewidth=0, zorder=0)
        axes.axvline(0.0, **DOTTED)
        for y, verdict in enumerate(rows):
            share, colour = advantage(verdict), colours.get(verdict.comparison.agent, INK)
            percent = Interval(*(100 * v for v in (share.estimate, share.low, share.high)))
            draw_interval(axes, y, percent, colour)
            axes.get_yticklabels()[y].set_color(colour)
            axes.annotate(
                verdict.text, (1.0, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                va="center", fontsize=8.0, fontweight="normal" if verdict.text == "undecided" else "bold",
            )  # fmt: skip
    return figure


def advantage(verdict: Verdict) -> Interval:
    """Return by how much the first agent is better, as a share of the second's mean."""
    share = verdict.relative
    return (
        Interval(-share.estimate, -share.high, -share.low, share.level)
        if verdict.endpoint.is_lower_better
        else share
    )


def make_agents_table(analysis: StudyAnalysis, task: str) -> Block:
    """Return the table of what agents of an ``analysis`` returned on a ``task``, how far they got, and what a metre cost."""
    rows = [row for label in analysis.labels if (row := analysis.rows.get((label, task))) is not None]
    return table(
        f"Agents on {task}",
        [row.label for row in rows],
        (Column("seeds"), [str(len(row.by_seed)) for row in rows]),
        (Column("return", "mean"), format_intervals([row.mean for row in rows])),
        *(
            (
                Column(f"energy, {price}", "µJ/m"),
                format_intervals([row.energy_per_metre.get(price) for row in rows], each=True),
            )
            for price in PRICES
        ),
    )
