"""The answer in short: a first screen with the verdicts of all tests, then a table of measures without a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from spiky_rl.config.progress import format_count
from spiky_rl.experiments.analysis.measures import AgentTaskRow, choose_energy_models
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.report.blocks import (
    NONE,
    Block,
    Column,
    format_interval,
    format_intervals,
    join_names,
    make_collapsible,
    make_paragraph,
    make_table,
)
from spiky_rl.experiments.report.drawing import format_tick
from spiky_rl.experiments.report.threats import build_reuse_notes
from spiky_rl.experiments.report.verdicts import build_first_screen
from spiky_rl.metrics.energy import ENERGY_MODELS

MAX_LISTED = 8
"""Maximum number of names in a cell."""


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
