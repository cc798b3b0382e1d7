"""A study's report: one page of HTML that needs nothing beside it, and the same in Markdown with its figures.

Both are written from the same blocks, made from the result files alone: the same results give the same bytes, up to the line with
the date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from spiky_rl.experiments.analysis.comparisons import PairedComparison
from spiky_rl.experiments.analysis.measures import WINDOW
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis, analyze_study
from spiky_rl.experiments.analysis.statistics import LEVEL
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.answer import build_summary
from spiky_rl.experiments.report.blocks import (  # fmt: skip
    NONE,
    Block,
    Column,
    Section,
    format_count,
    format_fixed,
    format_intervals,
    make_collapsible,
    make_figure,
    make_paragraph,
    probability,
    slug,
    table,
)
from spiky_rl.experiments.report.design import design
from spiky_rl.experiments.report.drawing import format_tick
from spiky_rl.experiments.report.energy import energy
from spiky_rl.experiments.report.pages import write_pages
from spiky_rl.experiments.report.robustness import build_memory_section, robustness
from spiky_rl.experiments.report.threats import threats


def write_report(folder: Path, date: str | None = None) -> tuple[Path, Path]:
    """Write report.html, report.md and figures/ into a study's ``folder``; returns the two pages.

    ``date`` is the one line that differs between two reports of the same results; None: today. Raises ResultsError where the
    folder holds no study; cells without a readable result are named in the report.
    """
    analysis = analyze_study(folder)
    name, cells = analysis.design.name, format_count(len(analysis.results), "cell")
    subtitle = f"Study {name}: {cells} with a result, {len(analysis.skipped)} without"
    title = analysis.design.question or name
    return write_pages(folder, title, subtitle, report(analysis), figures.get_colors(analysis), date)


def report(analysis: StudyAnalysis) -> list[Section]:
    """All sections of an ``analysis`` in their order; one without blocks has nothing to say."""
    return [
        Section("answer", "The answer in short", list(build_summary(analysis))),
        Section("design", "Design", list(design(analysis))),
        Section("scores", "Scores", list(build_scores_section(analysis))),
        Section("figures", "Figures", list(build_figures_section(analysis))),
        Section(
            "tests", "Unplanned tests against the baseline", list(build_tests_section(analysis.comparisons))
        ),
        Section("efficiency", "Sample efficiency, time and firing", list(efficiency(analysis))),
        Section("robustness", "Robustness", list(robustness(analysis))),
        Section("memory", "Need of memory", list(build_memory_section(analysis))),
        Section("energy", "Operations and energy", list(energy(analysis))),
        Section("threats", "Threats to validity", list(threats(analysis))),
        Section("missing", "Missing and failed cells", list(build_missing_section(analysis))),
        Section("versions", "Versions and hashes", list(versions(analysis))),
        Section("commands", "Commands", list(commands(analysis))),
        Section(
            "pairs",
            "Appendix: all pairs of agents",
            (
                [make_collapsible("All comparisons", *build_tests_section(analysis.pairs))]
                if any(analysis.pairs.values())
                else []
            ),
        ),
    ]


def build_scores_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """The main table of an ``analysis``, and every seed."""
    order = sorted(
        analysis.labels,
        key=lambda label: -analysis.overall[label].estimate if label in analysis.overall else 1e300,
    )
    verdict = {(name, c.agent): c.verdict for name, family in analysis.comparisons.items() for c in family}
    several = len(analysis.tasks) > 1
    parts: list[tuple[Column, list[str]]] = []
    if analysis.overall and several:
        parts += [
            (
                Column("All tasks", "normalised, IQM"),
                format_intervals([analysis.overall.get(label) for label in order]),
            ),
            (Column("All tasks", "verdict", True), [verdict.get((ALL, label), NONE) for label in order]),
        ]
    for task in analysis.tasks:
        rows = [analysis.rows.get((label, task)) for label in order]
        parts.append((Column(task, "return, mean"), format_intervals([row and row.mean for row in rows])))
        if analysis.normalised and not several:
            parts.append(
                (Column(task, "normalised, IQM"), format_intervals([row and row.normalised for row in rows]))
            )
        parts.append((Column(task, "verdict", True), [verdict.get((task, label), NONE) for label in order]))
    if order:
        note = "IQM: interquartile mean, the mean of the middle half of all runs."
        if any(analysis.comparisons.values()):
            note += f" Verdicts are against {analysis.baseline}."
        yield table("Score of the final policy", order, *parts, note=note)
    for task in analysis.tasks:
        named = [label for label in analysis.labels if (label, task) in analysis.rows]
        rows = [analysis.rows[label, task] for label in named]
        seeds = sorted({seed for row in rows for seed in row.by_seed})
        yield make_collapsible(
            f"Every seed on {task}",
            table(
                f"Scores on {task}, return",
                named,
                (Column("mean"), format_intervals([row.mean for row in rows])),
                (Column("IQM"), format_intervals([row.iqm for row in rows])),
                (Column("IQM", "normalised"), format_intervals([row.normalised for row in rows])),
                (Column("training", "last iterations"), format_intervals([row.training for row in rows])),
                *((Column(f"seed {s}"), [format_fixed(row.by_seed.get(s)) for row in rows]) for s in seeds),
            ),
        )


def build_figures_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Scores of an ``analysis`` and how they came about, as figures."""
    dashed = f" Dashed: {analysis.baseline}." if analysis.baseline else ""
    for task in analysis.tasks if analysis.design.plan else ():
        yield from make_figure(
            f"ladder_{slug(task)}", f"Return, energy and compute on {task}, in the study's order",
            f"Estimates and {100 * LEVEL:g} % intervals over seeds. Dotted: {analysis.baseline}.",
            lambda task=task: figures.draw_ladder(analysis, task),
        )  # fmt: skip
    for task in analysis.tasks:
        mark = " Dotted: the return that counts as solved." if task in analysis.solved else ""
        beside = dashed if sum(other == task for _, other in analysis.curves) > figures.MAX_LINES else ""
        yield from make_figure(
            f"curves_{slug(task)}", f"Learning on {task}",
            f"Interquartile mean of the return while training, with its interval over seeds, over environment steps.{beside}{mark}",
            lambda task=task: figures.draw_learning_curves(analysis, task),
        )  # fmt: skip
    if analysis.rows:
        one = f" Dotted: {analysis.baseline}." if analysis.normalised and len(analysis.tasks) > 1 else ""
        yield from make_figure(
            "scores", "Interquartile mean of the score",
            f"Estimates and {100 * LEVEL:g} % intervals over seeds, best first.{one}", lambda: figures.draw_scores(analysis),
        )  # fmt: skip
    yield from make_figure(
        "profiles", "Performance profiles",
        f"Share of runs whose score lies above a value, averaged over tasks, with intervals that hold point by point.{dashed}",
        lambda: figures.draw_profiles(analysis),
    )  # fmt: skip
    yield from make_figure(
        "improvement", f"Probability of improvement over {analysis.baseline}",
        f"How probable it is that a run scores above a run of {analysis.baseline}, with intervals. Dotted: as probable as not.",
        lambda: figures.draw_improvement(analysis),
    )  # fmt: skip


def build_tests_section(families: Mapping[str, tuple[PairedComparison, ...]]) -> Iterable[Block]:
    """A table for each of the ``families`` of comparisons."""
    if any(families.values()):
        yield make_paragraph(
            "n: pairs of equal task and seed. p: two-sided sign-flip test, raw and corrected by Holm. d: Hedges' d of paired"
            " differences. P: probability that a run scores higher than the other's, not paired. Seeds needed: per task, for a power"
            " of 80 % if the effect is as large as it looks."
        )
    for name, family in families.items():
        if not family:
            continue
        unit = "normalised score" if name == ALL else "return"
        where = "over all tasks" if name == ALL else f"on {name}"
        against = {c.baseline for c in family}
        to = f" to {family[0].baseline}" if len(against) == 1 else ""
        note = f"{format_count(len(family), 'comparison')}: the lowest corrected p there can be is {probability(min(c.min_p_value for c in family))}."
        if left_out := sum(c.left_out for c in family):
            note += f" {format_count(left_out, 'score')} without a partner {'was' if left_out == 1 else 'were'} left out."
        yield table(
            f"Difference{to} {where}",
            [c.agent if to else f"{c.agent} − {c.baseline}" for c in family],
            (Column("n", "pairs"), [str(c.pairs) for c in family]),
            (Column("difference", unit), format_intervals([c.difference for c in family], least=2)),
            (Column("d"), [format_fixed(c.effect) for c in family]),
            (Column("P"), format_intervals([c.improvement for c in family])),
            (Column("p", "raw"), [probability(c.p_value) for c in family]),
            (Column("p", "Holm"), [probability(c.corrected) for c in family]),
            (Column("verdict", is_text=True), [c.verdict for c in family]),
            (
                Column("seeds", "needed"),
                [NONE if c.seeds_needed is None else f"{c.seeds_needed:,}" for c in family],
            ),
            note=note,
            first="agent" if to else "pair",
        )


def efficiency(analysis: StudyAnalysis) -> Iterable[Block]:
    """How soon agents of an ``analysis`` learned, how long it took, and with how many spikes."""
    yield from make_figure(
        "thresholds", "Environment steps to the task's threshold",
        f"First environment step at which the return while training, averaged over {WINDOW} iterations, reaches the threshold:"
        " dots are runs, bars their medians. Triangles beyond the budget: how many runs never reached it, which count as"
        " longer than the budget.",
        lambda: figures.draw_thresholds(analysis),
    )  # fmt: skip
    for task in analysis.tasks:
        named = [label for label in analysis.labels if (label, task) in analysis.rows]
        rows = [analysis.rows[label, task] for label in named]
        ends = [row.threshold for row in rows]
        medians = [
            NONE if t is None else f"> {format_tick(t.budget)}" if t.median is None else format_tick(t.median)
            for t in ends
        ]
        rates = [None if row.label in analysis.anns else row.firing_rate for row in rows]
        yield table(
            f"Training on {task}",
            named,
            (
                Column("reached", "runs"),
                [
                    NONE if t is None else f"{t.reached} of {t.runs} ({100 * t.reached / t.runs:.0f} %)"
                    for t in ends
                ],
            ),
            (Column("median", "environment steps"), medians),
            (Column("training", "wall seconds"), format_intervals([row.seconds for row in rows], each=True)),
            (
                Column("training", "processor seconds"),
                format_intervals([row.processor for row in rows], each=True),
            ),
            (Column("return", "last iterations"), format_intervals([row.training for row in rows])),
            (Column("firing rate", "%, when evaluated"), format_intervals(rates, 100)),
            (Column("episode", "control steps"), format_intervals([row.length for row in rows])),
        )


def build_missing_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Cells of an ``analysis`` without numbers, each with the reason."""
    if not analysis.skipped:
        yield make_paragraph(f"None: all {format_count(len(analysis.results), 'cell')} have a result.")
    absent = [cell for cell in analysis.skipped if cell.status == "missing"]
    for cell in analysis.skipped:
        if cell not in absent:
            yield make_collapsible(f"{cell.cell}: {cell.status}", Block("code", cell.reason))
    if absent:
        lines = [f"{cell.cell}: {cell.reason}" for cell in absent]
        yield make_collapsible(
            f"{format_count(len(absent), 'cell')} missing", Block("code", "\n".join(lines))
        )


def versions(analysis: StudyAnalysis) -> Iterable[Block]:
    """Software, machine and robots of each cell of an ``analysis``, as letters."""
    results = analysis.results
    software = [
        ", ".join(f"{name} {version}" for name, version in sorted(r.versions.items())) for r in results
    ]
    places = [f"{r.machine}; {r.device}; robots: {r.assets}; physics: {r.physics}" for r in results]
    setups = [f"{packages}; {place}" for packages, place in zip(software, places, strict=True)]
    named = {setup: chr(ord("A") + i) if i < 26 else str(i) for i, setup in enumerate(dict.fromkeys(setups))}
    if results:
        yield Block("terms", items=[(name, setup) for setup, name in named.items()])
        parts = (
            (Column("hash", is_text=True), [r.hash for r in results]),
            (Column("specification", is_text=True), [r.spec_hash or NONE for r in results]),
            (Column("obtained with", is_text=True), [named[setup] for setup in setups]),
            (Column("date", is_text=True), [r.date for r in results]),
            (Column("environments"), [f"{r.num_envs:,}" for r in results]),
            (Column("resumed", "times"), [str(r.resumed) for r in results]),
        )
        yield make_collapsible("Every cell", table("Cells", [r.cell for r in results], *parts, first="cell"))


def commands(analysis: StudyAnalysis) -> Iterable[Block]:
    """Command lines that reproduce each cell of an ``analysis`` by hand."""
    if analysis.results:
        yield make_paragraph(
            "OUT is the study's folder. The same seed on the same CPU gives the same result, to the last bit."
        )
    for label in dict.fromkeys(result.label for result in analysis.results):
        lines = [line for r in analysis.results if r.label == label for line in (f"# {r.cell}", *r.commands)]
        yield make_collapsible(label, Block("code", "\n".join(lines)))
