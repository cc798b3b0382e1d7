"""The answer in short: a picture of all comparisons, a sentence of verdicts for each pair, a table of agents, and measures without a test."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from spiky_rl.config.progress import format_count
from spiky_rl.experiments.analysis.comparisons import PairedComparison
from spiky_rl.experiments.analysis.measures import AgentTaskRow, choose_energy_models
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis
from spiky_rl.experiments.analysis.statistics import LEVEL, Interval
from spiky_rl.experiments.analysis.verdicts import Verdict
from spiky_rl.experiments.design.planned import ALPHA, count_deciding_seeds
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (
    NONE,
    Block,
    Column,
    format_fixed,
    format_interval,
    format_intervals,
    format_p_value,
    join_names,
    list_cells,
    make_collapsible,
    make_figure,
    make_paragraph,
    make_table,
)
from spiky_rl.experiments.report.drawing import DOTTED, INK, RULE, draw_interval, fit_label, format_tick
from spiky_rl.experiments.report.threats import build_reuse_notes, list_additions
from spiky_rl.metrics.energy import ENERGY_MODELS, MAIN_ENERGY_MODELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROW = 5.4
"""Width of the picture in inches; its text is legible on a phone."""
ROW, HEADING = 0.27, 0.5
"""Inches of a comparison, and of an endpoint's name with its axis."""
VERDICTS = ("better", "worse", "equivalent", "undecided")
"""The order of verdicts in a sentence."""
MAX_LISTED = 8
"""Maximum number of names in a cell."""
VERDICTS_NOTE = (
    "Differences: mean of paired seeds; share: of the second agent's mean. p: two-sided sign-flip test, of an equivalence two one-sided"
    " ones, corrected by Holm. Seeds to decide: for a power of 80 % if the effect is as large as observed, or, for equivalence, if there is none."
)


def build_summary(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the answer in short."""
    if not analysis.rows:
        yield make_paragraph("No cell has a result yet, so there is no answer.")
        return
    yield from build_reuse_notes(analysis)
    if analysis.skipped:
        count = len(analysis.results) + len(analysis.skipped)
        yield make_paragraph(
            f"{format_count(len(analysis.skipped), 'cell')} of {count} gave no numbers; they are named below."
        )
    yield from build_first_screen(analysis)
    rows = {title: cells for title, cells in list_measures(analysis).items() if set(cells) != {NONE}}
    columns = (
        Column(task, cells, is_text=True) for task, *cells in zip(analysis.tasks, *rows.values(), strict=True)
    )
    note = f"Energy per control step, and per metre if robots move. {describe_energy_models(analysis.rows.values())}"
    yield make_collapsible(
        "Further measures, without a test",
        make_table("Measures", list(rows), *columns, first="measure", note=note),
    )


def build_first_screen(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the picture of the verdicts, a sentence for each pair, and the returns of agents; then the plan, and the verdicts in numbers."""
    if analysis.verdicts:
        margin = max(verdict.margin for verdict in analysis.verdicts)
        band = f" Shaded: the margin of {100 * margin:g} %." if margin else ""
        baseline = find_only_baseline(analysis.verdicts)
        yield from make_figure(
            "verdicts",
            f"Advantage over {baseline} in %" if baseline else "Advantage of the first agent in % of the second",
            f"Differences of paired seeds in % of the {'baseline' if baseline else 'second agent'}'s mean, with uncorrected"
            f" {100 * LEVEL:g} % intervals; right of the line the {'' if baseline else 'first '}agent is better, also if lower is better.{band}",
            lambda: draw_verdicts(analysis.verdicts, figures.get_colors(analysis)),
        )  # fmt: skip
        yield Block("list", items=list(list_sentences(analysis)))
    else:
        yield make_paragraph("Nothing is compared.")
    for task in analysis.tasks:
        yield make_agents_table(analysis, task)
    if analysis.verdicts:
        yield make_paragraph(describe_plan(analysis))
        yield make_collapsible("The verdicts in numbers", make_verdicts_table(analysis))


def describe_plan(analysis: StudyAnalysis) -> str:
    """Return the date and the terms of the planned comparisons."""
    plan, verdicts = analysis.design.plan, analysis.verdicts
    if plan is None:
        return "No comparison was planned; these were chosen after the results were known."
    tests = verdicts[0].comparison.comparisons
    pairs = max(v.comparison.pairs for v in verdicts)
    is_powerless = min(v.comparison.min_p_value for v in verdicts) >= ALPHA
    commit = f", begun at commit {plan.commit[:10]}" if plan.commit else ""
    when = "before the first cell" if verdicts[0].is_planned else "after results were known"
    text = (
        f"{format_count(len(plan.comparisons), 'comparison')} in {format_count(len(plan.endpoints), 'endpoint')} planned {when}"
        f" ({plan.date}{commit}), for {format_count(len(plan.seeds), 'seed')}; Holm corrects {format_count(tests, 'test')} together; an"
        f" agent whose mean is shown to lie within {100 * plan.margin:g} % of the second agent's is equivalent."
    )
    if additions := "; ".join(list_additions(analysis)):
        text += f" The verdicts count what was not planned: {additions}."
    if is_powerless:
        text += (
            f" With {format_count(pairs, 'seed')} no test can find a difference; {count_deciding_seeds(tests)} can."
            f" Equivalence needs {count_deciding_seeds(tests, sides=1)}."
        )
    return text


def find_only_baseline(verdicts: Iterable[Verdict]) -> str | None:
    """Return the baseline of all ``verdicts``; None if they have several."""
    baselines = {verdict.comparison.baseline for verdict in verdicts}
    return baselines.pop() if len(baselines) == 1 else None


def list_sentences(analysis: StudyAnalysis) -> Iterable[tuple[str, str]]:
    """Yield each compared pair of agents, without the baseline if all have the same, and a sentence of its verdicts with differences in %."""
    has_one_baseline = find_only_baseline(analysis.verdicts) is not None
    for (agent, baseline), verdicts in group_verdicts(analysis).items():
        endpoints = defaultdict[str, list[str]](list)
        for name, verdict in verdicts.items():
            share = format_relative_difference(verdict)
            endpoints[format_verdict(verdict)].append(f"{name} ({share})" if share else name)
        words = sorted(endpoints, key=lambda word: VERDICTS.index(word.partition(" ")[0]))
        yield (
            f"{agent}:" if has_one_baseline else f"{agent} against {baseline}:",
            "; ".join(f"{word} in {join_names(endpoints[word], len(verdicts))}" for word in words) + ".",
        )


def group_verdicts(analysis: StudyAnalysis) -> dict[tuple[str, str], dict[str, Verdict]]:
    """Return the verdicts by pair of agents, and by the name of their endpoint."""
    several = len({verdict.task for verdict in analysis.verdicts}) > 1
    pairs = defaultdict[tuple[str, str], dict[str, Verdict]](dict)
    for verdict in analysis.verdicts:
        pair = verdict.comparison.agent, verdict.comparison.baseline
        pairs[pair][_name_endpoint(verdict, several)] = verdict
    return pairs


def _name_endpoint(verdict: Verdict, with_task: bool) -> str:
    """Return the name of a ``verdict``'s endpoint, with its task if there are several."""
    if verdict.task == ALL:
        return f"normalised score over {ALL}"
    return f"{verdict.endpoint.label} on {verdict.task}" if with_task else verdict.endpoint.label


def make_verdicts_table(analysis: StudyAnalysis) -> Block:
    """Return the table of all verdicts: difference, p-value, and of an undecided one the seeds that would decide it."""
    rows = [
        (f"{agent} − {baseline}", name, verdict)
        for (agent, baseline), verdicts in group_verdicts(analysis).items()
        for name, verdict in verdicts.items()
    ]
    verdicts = [verdict for *_, verdict in rows]
    without = [verdict.unmeasured for verdict in verdicts]
    return make_table(
        "Verdicts",
        [pair for pair, *_ in rows],
        Column("endpoint", [name for _, name, _ in rows], is_text=True),
        Column("verdict", list(map(format_verdict, verdicts)), is_text=True),
        Column("pairs", list_cells((verdict.comparison for verdict in verdicts), "pairs")),
        Column("pairs left out", list(map(str, without)) if any(without) else [NONE] * len(rows)),
        Column("difference", list(map(format_difference, verdicts))),
        Column("share", [format_relative_difference(verdict) or NONE for verdict in verdicts]),
        Column("p", list(map(format_verdict_p, verdicts))),
        Column("seeds", list(map(format_seeds_needed, verdicts)), "to decide", True),
        first="comparison",
        note=VERDICTS_NOTE,
    )


def format_verdict(verdict: Verdict) -> str:
    """Return a ``verdict`` in words, with the margin if it is an equivalence."""
    return f"equivalent within {100 * verdict.margin:g} %" if verdict.text == "equivalent" else verdict.text


def format_difference(verdict: Verdict) -> str:
    """Return the mean difference of paired seeds with its interval and unit; a dash without pairs."""
    endpoint = verdict.endpoint
    if not verdict.comparison.pairs:
        return NONE
    text = format_intervals([verdict.comparison.difference], endpoint.scale, least=1)[0]
    return f"{text} {endpoint.unit}" if endpoint.unit else text


def format_relative_difference(verdict: Verdict) -> str:
    """Return the difference as a share of the second agent's mean; empty if it has none, as over all tasks."""
    share = verdict.relative.estimate
    return f"{format_fixed(100 * share, 0)} %" if math.isfinite(share) and verdict.task != ALL else ""


def format_verdict_p(verdict: Verdict) -> str:
    """Return the p-value of the test that gave the ``verdict``."""
    p = verdict.equivalence if verdict.text == "equivalent" else verdict.comparison.corrected
    return format_p_value(p)


def format_seeds_needed(verdict: Verdict) -> str:
    """Return the seeds that would decide an undecided ``verdict`` if the observed numbers are true; a dash if none or no known number would."""
    if verdict.text != "undecided":
        return NONE
    is_small = abs(verdict.relative.estimate) < verdict.margin
    seeds = verdict.seeds_to_equate if is_small else verdict.comparison.seeds_needed
    return NONE if seeds is None else f"{seeds}{' (equivalence)' if is_small else ''}"


def draw_verdicts(verdicts: Sequence[Verdict], colours: Mapping[str, str]) -> Figure | None:
    """Draw advantages in %, a panel for each endpoint and task, a row for each pair, in the ``colours`` of agents; return None without any."""
    panels = defaultdict[str, list[Verdict]](list)
    several = len({verdict.task for verdict in verdicts}) > 1
    for verdict in verdicts:
        if math.isfinite(verdict.relative.estimate):
            panels[_name_endpoint(verdict, several)].append(verdict)
    if not panels:
        return None
    has_one_baseline = find_only_baseline(verdicts) is not None
    row = ROW if has_one_baseline else 1.4 * ROW
    heights = [row * len(rows) for rows in panels.values()]
    figure = Figure(figsize=(NARROW, sum(heights) + HEADING * len(panels)))
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(drawn, panels.items(), strict=True):
        _draw_panel(axes, title, rows, colours, has_one_baseline)
    return figure


def _name_row(compared: PairedComparison, has_one_baseline: bool) -> str:
    """Return the name of a comparison's row: the agent, and the baseline if the picture has several."""
    if has_one_baseline:
        return fit_label(compared.agent, 30)
    return f"{fit_label(compared.agent, 22)}\n− {fit_label(compared.baseline, 22)}"


def _draw_panel(
    axes: Axes, title: str, verdicts: Sequence[Verdict], colours: Mapping[str, str], has_one_baseline: bool
) -> None:
    """Draw the ``verdicts`` of an endpoint row by row, over an axis in % with a line at zero and the margin as a band."""
    names = [_name_row(verdict.comparison, has_one_baseline) for verdict in verdicts]
    margin = verdicts[0].margin
    axes.set(title=title, ylim=(len(names) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g} %".replace("-", "−") if value else "0")
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="x", labelsize=7.5, pad=2)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(names)), names, size=8.0)
    axes.tick_params(axis="y", length=0)
    if margin:
        axes.axvspan(-100 * margin, 100 * margin, color=RULE, linewidth=0, zorder=0)
    axes.axvline(0.0, **DOTTED)
    for y, verdict in enumerate(verdicts):
        _draw_verdict(axes, y, verdict, colours.get(verdict.comparison.agent, INK))


def _draw_verdict(axes: Axes, y: int, verdict: Verdict, colour: str) -> None:
    """Draw the advantage of the first agent at height ``y``, with the verdict right of it."""
    share = compute_advantage(verdict)
    percent = Interval(*(100 * v for v in (share.estimate, share.low, share.high)))
    draw_interval(axes, y, percent, colour)
    axes.get_yticklabels()[y].set_color(colour)
    axes.annotate(
        verdict.text, (1.0, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", fontsize=8.0, fontweight="normal" if verdict.text == "undecided" else "bold",
    )  # fmt: skip


def compute_advantage(verdict: Verdict) -> Interval:
    """Return by how much the first agent is better, as a share of the second's mean."""
    share = verdict.relative
    if not verdict.endpoint.is_lower_better:
        return share
    return Interval(-share.estimate, -share.high, -share.low)


def make_agents_table(analysis: StudyAnalysis, task: str) -> Block:
    """Return the table of the agents on a ``task``: return, energy per metre in fp32, and seeds."""
    rows = analysis.get_task_rows(task)
    model = next(iter(MAIN_ENERGY_MODELS))
    energies = format_intervals([row.energy_per_metre.get(model) for row in rows], each=True)
    return make_table(
        f"Agents on {task}",
        [row.label for row in rows],
        Column("return", format_intervals([row.mean for row in rows]), "mean"),
        Column(f"energy, {model}", energies, "µJ/m"),
        Column("seeds", [str(len(row.by_seed)) for row in rows]),
    )


def list_measures(analysis: StudyAnalysis) -> dict[str, list[str]]:
    """Return the rows of the table of further measures: by title, the cell of each task."""
    baseline = [str(analysis.baseline)]
    sparse = [label for label in analysis.labels if label not in analysis.anns]
    rows: dict[str, Callable[[str], str]] = {
        "runs that reached the threshold": partial(format_reached, analysis),
        "steps to it, median of the baseline": partial(find_fastest, analysis, baseline),
        "steps to it, lowest median": partial(find_fastest, analysis, analysis.labels),
        "return that the baseline loses": partial(compute_memory_loss, analysis),
    }
    for model, kind in choose_energy_models(analysis.rows.values()).items():
        rows |= {
            f"energy of the baseline, {kind}": partial(find_lowest_energy, analysis, model, baseline),
            f"least energy of an agent with sparse activity, {kind}": partial(
                find_lowest_energy, analysis, model, sparse
            ),
            f"front of score and energy, {kind}": partial(format_front, analysis, model),
        }
    return {title: [format_cell(task) for task in analysis.tasks] for title, format_cell in rows.items()}


def format_reached(analysis: StudyAnalysis, task: str) -> str:
    """Return the number of runs that reached the threshold of a ``task``."""
    thresholds = [row.threshold for row in analysis.get_task_rows(task) if row.threshold]
    if not thresholds:
        return NONE
    reached, runs = sum(t.reached for t in thresholds), sum(t.runs for t in thresholds)
    return f"{reached} of {runs} (return {analysis.solved[task]:g})"


def find_fastest(analysis: StudyAnalysis, labels: Iterable[str], task: str) -> str:
    """Return, as text, the lowest median of environment steps to a ``task``'s threshold among agents of these ``labels``."""
    medians = {
        row.label: row.threshold.median
        for row in analysis.get_task_rows(task, labels)
        if row.threshold and row.threshold.median
    }
    first = min(medians, key=medians.__getitem__, default=None)
    return NONE if first is None else f"{format_tick(medians[first])} ({first})"


def compute_memory_loss(analysis: StudyAnalysis, task: str) -> str:
    """Return, as text, the score that the baseline loses on the twins of a ``task`` with hidden or late observations."""
    losses = [m for m in analysis.memory if m.task == task and m.label == analysis.baseline]
    return "; ".join(f"{format_interval(m.drop)} ({m.masked})" for m in losses) or NONE


def describe_energy_models(rows: Iterable[AgentTaskRow]) -> str:
    """Return the descriptions of the main energy models of ``rows``; empty without energies."""
    texts = [ENERGY_MODELS[name].text for name in choose_energy_models(rows)]
    return f"Energy models: {'; '.join(texts)}." if texts else ""


def find_lowest_energy(analysis: StudyAnalysis, model: str, labels: Iterable[str], task: str) -> str:
    """Return, as text, the lowest energy of a control step on a ``task`` under an energy ``model`` among agents of these ``labels``."""
    rows = [row for row in analysis.get_task_rows(task, labels) if model in row.energy]
    first = min(rows, key=lambda row: row.energy[model].estimate, default=None)
    if first is None:
        return NONE
    text = f"{format_intervals([first.energy[model]], each=True)[0]} nJ"
    if model in first.energy_per_metre:
        text += f", {format_intervals([first.energy_per_metre[model]], each=True)[0]} µJ per metre"
    return f"{text} ({first.label})"


def format_front(analysis: StudyAnalysis, model: str, task: str) -> str:
    """Return the names of the agents at the front of score and energy on a ``task`` under an energy ``model``."""
    return join_names(analysis.get_pareto_front(task, model), MAX_LISTED) or NONE
