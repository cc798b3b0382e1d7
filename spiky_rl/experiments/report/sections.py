"""A study's report: one page of HTML that needs no other file, and the same in Markdown with its figures.

Both are written from the same blocks, made from the result files alone: the same results give the same bytes, except for the line with
the date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase

from spiky_rl.config.progress import format_count
from spiky_rl.experiments.analysis.comparisons import PairedComparison
from spiky_rl.experiments.analysis.measures import WINDOW, ThresholdSummary
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, analyze_study, sort_by_estimate
from spiky_rl.experiments.analysis.statistics import LEVEL
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (  # fmt: skip
    NONE,
    Block,
    Column,
    Section,
    format_fixed,
    format_intervals,
    format_p_value,
    list_cells,
    make_collapsible,
    make_figure,
    make_paragraph,
    make_slug,
    make_table,
)
from spiky_rl.experiments.report.design import build_design_section
from spiky_rl.experiments.report.drawing import format_tick
from spiky_rl.experiments.report.energy import build_energy_section
from spiky_rl.experiments.report.pages import write_pages
from spiky_rl.experiments.report.robustness import build_memory_section, build_robustness_section
from spiky_rl.experiments.report.threats import build_threats_section
from spiky_rl.experiments.report.verdicts import build_summary
from spiky_rl.experiments.run.records import CellResult


def write_report(
    folder: Path, date: str | None = None, analysis: StudyAnalysis | None = None
) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ into a study's ``folder`` and return the two pages.

    ``date`` is the only line in which two reports of the same results differ; None takes today. ``analysis`` is the folder's; None makes
    it. Cells without a readable result are named in the report. Raises ResultsError if the folder has no study.
    """
    analysis = analysis or analyze_study(folder)
    name, cells = analysis.design.name, format_count(len(analysis.results), "cell")
    subtitle = f"Study {name}: {cells} with a result, {len(analysis.skipped)} without"
    title = analysis.design.question or name
    return write_pages(folder, title, subtitle, build_sections(analysis), figures.get_colors(analysis), date)


def build_sections(analysis: StudyAnalysis) -> list[Section]:
    """Return all sections in their order; a section may be empty."""
    pairs = build_tests_section(analysis.pairs) if any(analysis.pairs.values()) else ()
    contents: dict[tuple[str, str], Iterable[Block]] = {
        ("answer", "The answer in short"): build_summary(analysis),
        ("design", "Design"): build_design_section(analysis),
        ("scores", "Scores"): build_scores_section(analysis),
        ("figures", "Figures"): build_figures_section(analysis),
        ("tests", "Unplanned tests against the baseline"): build_tests_section(analysis.comparisons),
        ("efficiency", "Sample efficiency, time and firing rate"): build_efficiency_section(analysis),
        ("robustness", "Robustness"): build_robustness_section(analysis),
        ("memory", "Need of memory"): build_memory_section(analysis),
        ("energy", "Operations and energy"): build_energy_section(analysis),
        ("threats", "Threats to validity"): build_threats_section(analysis),
        ("missing", "Missing and failed cells"): build_missing_section(analysis),
        ("versions", "Versions and hashes"): build_versions_section(analysis),
        ("commands", "Commands"): build_commands_section(analysis),
        ("pairs", "Appendix: all pairs of agents"): (
            [make_collapsible("All comparisons, unplanned", *pairs)] if pairs else ()
        ),
    }
    return [Section(name, title, list(blocks)) for (name, title), blocks in contents.items()]


def build_scores_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the main table, and the scores of every seed."""
    if analysis.labels:
        yield make_main_table(analysis)
    for task in analysis.tasks:
        yield make_collapsible(f"Every seed on {task}", make_seeds_table(analysis, task))


def make_main_table(analysis: StudyAnalysis) -> Block:
    """Return the table of scores and verdicts, the highest score over all tasks first."""
    order = sort_by_estimate(analysis.labels, analysis.overall)
    columns, names = list[Column](), list(analysis.families)
    for name in names:
        title = "All tasks" if name == ALL else name
        scores = {"return, mean": {row.label: row.mean for row in analysis.get_task_rows(name)}}
        if analysis.is_normalised and name == names[0]:
            scores["normalised, IQM"] = dict(analysis.overall)
        for unit, intervals in scores.items():
            columns.append(Column(title, format_intervals([*map(intervals.get, order)]), unit))
        verdicts = {c.agent: c.verdict for c in analysis.comparisons.get(name, ())}
        columns.append(Column(title, [verdicts.get(label, NONE) for label in order], "verdict", True))
    note = "IQM: interquartile mean, the mean of the middle half of all runs."
    if any(analysis.comparisons.values()):
        note += f" Verdicts are those of unplanned tests against {analysis.baseline}."
    return make_table("Score of the final policy", order, *columns, note=note)


def make_seeds_table(analysis: StudyAnalysis, task: str) -> Block:
    """Return the table of the scores of every seed on a ``task``."""
    rows = analysis.get_task_rows(task)
    seeds = sorted({seed for row in rows for seed in row.by_seed})

    def make_column(title: str, key: str, unit: str = "") -> Column:
        return Column(title, format_intervals([getattr(row, key) for row in rows]), unit)

    return make_table(
        f"Scores on {task}, return",
        [row.label for row in rows],
        make_column("mean", "mean"),
        make_column("IQM", "iqm"),
        make_column("IQM", "normalised", "normalised"),
        make_column("training", "training", "last iterations"),
        make_column("evaluations", "last_ten_evaluations", "last ten"),
        make_column("evaluations", "max_evaluation", "maximum"),
        *(Column(f"seed {s}", [format_fixed(row.by_seed.get(s)) for row in rows]) for s in seeds),
    )


def build_figures_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the figures of scores and learning."""
    dashed = f" Dashed: {analysis.baseline}." if analysis.baseline else ""
    for task in analysis.tasks if analysis.design.plan else ():
        yield from make_figure(
            f"ladder_{make_slug(task)}", f"Return, energy and compute on {task}, in the study's order",
            f"Estimates and {100 * LEVEL:g} % intervals over seeds. Dotted: {analysis.baseline}.",
            lambda task=task: figures.draw_ladder(analysis, task),
        )  # fmt: skip
    for task in analysis.tasks:
        mark = " Dotted: the return that counts as solved." if task in analysis.solved else ""
        line = dashed if sum(other == task for _, other in analysis.curves) > figures.MAX_LINES else ""
        yield from make_figure(
            f"curves_{make_slug(task)}", f"Learning on {task}",
            f"Interquartile mean of the return while training, with its interval over seeds, over environment steps.{line}{mark}",
            lambda task=task: figures.draw_learning_curves(analysis, task),
        )  # fmt: skip
    if analysis.rows:
        one = f" Dotted: {analysis.baseline}." if analysis.is_normalised and len(analysis.tasks) > 1 else ""
        yield from make_figure(
            "scores", "Interquartile mean of the score",
            f"Estimates and {100 * LEVEL:g} % intervals over seeds, best first.{one}", lambda: figures.draw_scores(analysis),
        )  # fmt: skip
    yield from make_figure(
        "profiles", "Performance profiles",
        f"Share of runs with a score above a value, averaged over tasks, with intervals that hold point by point.{dashed}",
        lambda: figures.draw_profiles(analysis),
    )  # fmt: skip
    yield from make_figure(
        "improvement", f"Probability of improvement over {analysis.baseline}",
        f"Probability that a run scores above a run of {analysis.baseline}, with intervals. Dotted: equal chances.",
        lambda: figures.draw_improvement(analysis),
    )  # fmt: skip


def build_tests_section(families: Mapping[str, tuple[PairedComparison, ...]]) -> Iterable[Block]:
    """Yield a table for each of the ``families`` of comparisons."""
    if any(families.values()):
        yield make_paragraph(
            "n: pairs of equal task and seed. p: two-sided sign-flip test, raw and corrected by Holm. d: Hedges' d of paired"
            " differences. P: probability that a run scores higher than the other's, not paired. Seeds needed: per task, for a power"
            " of 80 % if the effect is as large as observed."
        )
    for name, family in families.items():
        if family:
            yield make_comparison_table(name, family)


def make_comparison_table(name: str, family: Sequence[PairedComparison]) -> Block:
    """Return the table of the comparisons in a ``family``; its ``name`` is a task or `ALL`."""
    where = "over all tasks" if name == ALL else f"on {name}"
    to = f" to {family[0].baseline}" if len({c.baseline for c in family}) == 1 else ""
    differences = format_intervals([c.difference for c in family], least=2)
    return make_table(
        f"Difference{to} {where}",
        [c.agent if to else f"{c.agent} − {c.baseline}" for c in family],
        Column("n", list_cells(family, "pairs"), "pairs"),
        Column("difference", differences, "normalised score" if name == ALL else "return"),
        Column("d", list_cells(family, "effect", format_fixed)),
        Column("P", format_intervals([c.improvement for c in family])),
        Column("p", list_cells(family, "p_value", format_p_value), "raw"),
        Column("p", list_cells(family, "corrected", format_p_value), "Holm"),
        Column("verdict", list_cells(family, "verdict"), is_text=True),
        Column("seeds", list_cells(family, "seeds_needed", lambda count: f"{count:,}"), "needed"),
        note=_describe_family(family),
        first="agent" if to else "pair",
    )


def _describe_family(family: Sequence[PairedComparison]) -> str:
    """Return the number of comparisons in a ``family``, the lowest possible p, and the number of scores left out."""
    lowest = format_p_value(min(c.min_p_value for c in family))
    note = f"{format_count(len(family), 'comparison')}: the lowest possible corrected p is {lowest}."
    if left_out := sum(c.left_out for c in family):
        note += f" {format_count(left_out, 'score')} without a partner {'was' if left_out == 1 else 'were'} left out."
    return note


def build_efficiency_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield environment steps and time of training, and firing rates."""
    yield from make_figure(
        "thresholds", "Environment steps to the task's threshold",
        f"First environment step at which the return while training, averaged over {WINDOW} iterations, reaches the threshold:"
        " dots are runs, bars their medians. Triangles beyond the budget: number of runs that never reached it, which count as"
        " longer than the budget.",
        lambda: figures.draw_thresholds(analysis),
    )  # fmt: skip
    for task in analysis.tasks:
        yield make_training_table(analysis, task)


def make_training_table(analysis: StudyAnalysis, task: str) -> Block:
    """Return the table of steps, times and firing rates of the trainings on a ``task``."""
    rows = analysis.get_task_rows(task)
    rates = [None if row.label in analysis.anns else row.firing_rate for row in rows]
    processor = format_intervals([row.processor for row in rows], each=True)
    return make_table(
        f"Training on {task}",
        [row.label for row in rows],
        Column("reached", [format_reached(row.threshold) for row in rows], "runs"),
        Column("median", [format_median_steps(row.threshold) for row in rows], "environment steps"),
        Column("training", format_intervals([row.seconds for row in rows], each=True), "wall seconds"),
        Column("training", processor, "processor seconds"),
        Column("return", format_intervals([row.training for row in rows]), "last iterations"),
        Column("firing rate", format_intervals(rates, 100), "%, in evaluation"),
        Column("episode", format_intervals([row.length for row in rows]), "control steps"),
    )


def format_reached(threshold: ThresholdSummary | None) -> str:
    """Return the number of runs that reached a ``threshold``; a dash if the task has none."""
    if threshold is None:
        return NONE
    return f"{threshold.reached} of {threshold.runs} ({100 * threshold.reached / threshold.runs:.0f} %)"


def format_median_steps(threshold: ThresholdSummary | None) -> str:
    """Return the median of the environment steps to a ``threshold``; a dash if the task has none."""
    if threshold is None:
        return NONE
    return f"> {format_tick(threshold.budget)}" if threshold.median is None else format_tick(threshold.median)


def build_missing_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the cells without numbers, each with the reason."""
    if not analysis.skipped:
        yield make_paragraph(f"None: all {format_count(len(analysis.results), 'cell')} have a result.")
    absent = [cell for cell in analysis.skipped if cell.status == "missing"]
    for cell in analysis.skipped:
        if cell not in absent:
            yield make_collapsible(f"{cell.cell}: {cell.status}", Block("code", cell.reason))
    if absent:
        lines = "\n".join(f"{cell.cell}: {cell.reason}" for cell in absent)
        yield make_collapsible(f"{format_count(len(absent), 'cell')} missing", Block("code", lines))


def build_versions_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield software, machine and robots of each cell, abbreviated by letters."""
    if not analysis.results:
        return
    setups = [describe_setup(result) for result in analysis.results]
    letters = dict(
        zip(dict.fromkeys(setups), [*ascii_uppercase, *map(str, range(26, len(setups)))], strict=False)
    )
    yield Block("terms", items=[(letter, setup) for setup, letter in letters.items()])
    yield make_collapsible(
        "Every cell", make_cells_table(analysis.results, [letters[setup] for setup in setups])
    )


def describe_setup(result: CellResult) -> str:
    """Return the versions of packages, the machine, the robots and the physics of a ``result``."""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    return (
        f"{packages}; {result.machine}; {result.device}; robots: {result.assets}; physics: {result.physics}"
    )


def make_cells_table(results: Sequence[CellResult], setups: Sequence[str]) -> Block:
    """Return the table of hashes and dates of ``results``; ``setups`` name the machine and software of each."""
    return make_table(
        "Cells",
        list_cells(results, "cell"),
        Column("hash", list_cells(results, "hash"), is_text=True),
        Column("specification", list_cells(results, "spec_hash"), is_text=True),
        Column("obtained with", setups, is_text=True),
        Column("date", list_cells(results, "date"), is_text=True),
        Column("environments", list_cells(results, "num_envs", lambda count: f"{count:,}")),
        Column("resumed", list_cells(results, "resumed"), "times"),
        first="cell",
    )


def build_commands_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the command lines that reproduce each cell."""
    if analysis.results:
        yield make_paragraph(
            "OUT is the study's folder. The same seed on the same CPU gives the same result, to the last bit."
        )
    for label in dict.fromkeys(result.label for result in analysis.results):
        lines = [line for r in analysis.results if r.label == label for line in (f"# {r.cell}", *r.commands)]
        yield make_collapsible(label, Block("code", "\n".join(lines)))
