"""The answer in short: the first screen, with the verdicts of all tests, and below it measures that no test backs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from spiky_rl.experiments.analysis.measures import AgentTaskRow, choose_energy_models
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.report.blocks import (
    NONE,
    Block,
    Column,
    format_count,
    format_interval,
    format_intervals,
    join_names,
    make_collapsible,
    make_paragraph,
    table,
)
from spiky_rl.experiments.report.drawing import format_tick
from spiky_rl.experiments.report.threats import build_reuse_notes
from spiky_rl.experiments.report.verdicts import build_first_screen
from spiky_rl.metrics.energy import ENERGY_MODELS, MAIN

MAX_LISTED = 8
"""Names in a cell, at most."""


def build_summary(analysis: StudyAnalysis) -> Iterable[Block]:
    """The answer of an ``analysis`` in short."""
    if not analysis.rows:
        yield make_paragraph("No cell has a result yet, so there is no answer.")
        return
    yield from build_reuse_notes(analysis)
    if analysis.skipped:
        cells = len(analysis.results) + len(analysis.skipped)
        yield make_paragraph(
            f"{format_count(len(analysis.skipped), 'cell')} of {cells} gave no numbers; they are named below."
        )
    yield from build_first_screen(analysis)
    rows = {
        title: [measure(analysis, task) for task in analysis.tasks] for title, measure in MEASURES.items()
    }
    rows = {title: cells for title, cells in rows.items() if any(cell != NONE for cell in cells)}
    columns = (
        (Column(task, is_text=True), [cells[i] for cells in rows.values()])
        for i, task in enumerate(analysis.tasks)
    )
    note = f"Energy is that of a control step, and of a metre where robots go somewhere. {describe_prices(analysis.rows.values())}"
    yield make_collapsible(
        "Beside it, without a test", table("Measures", list(rows), *columns, first="measure", note=note)
    )


def format_reached(analysis: StudyAnalysis, task: str) -> str:
    """How many runs of an ``analysis`` came to the threshold of a ``task``."""
    ends = [row.threshold for (_, other), row in analysis.rows.items() if other == task and row.threshold]
    runs = sum(threshold.reached for threshold in ends), sum(threshold.runs for threshold in ends)
    return f"{runs[0]} of {runs[1]} (return {analysis.solved[task]:g})" if ends else NONE


def find_fastest(analysis: StudyAnalysis, task: str, labels: Iterable[str]) -> str:
    """The lowest median of environment steps to a ``task``'s threshold among agents of these ``labels`` in an ``analysis``."""
    known = {
        row.label: row.threshold.median
        for row in list_rows(analysis, task, labels)
        if row.threshold and row.threshold.median
    }
    first = min(known, key=known.__getitem__, default=None)
    return NONE if first is None else f"{format_tick(known[first])} ({first})"


def compute_memory_loss(analysis: StudyAnalysis, task: str) -> str:
    """The score that the baseline of an ``analysis`` loses on the twins of a ``task`` whose observations lack something."""
    own = [m for m in analysis.memory if m.task == task and m.label == analysis.baseline]
    return "; ".join(f"{format_interval(m.drop)} ({m.masked})" for m in own) or NONE


def describe_prices(rows: Iterable[AgentTaskRow]) -> str:
    """Return in words the prices that the energies of ``rows`` stand under; nothing if they have none."""
    texts = [ENERGY_MODELS[name].text for name in choose_energy_models(rows)]
    return f"Prices: {'; '.join(texts)}." if texts else ""


def find_lowest_energy(analysis: StudyAnalysis, task: str, labels: Iterable[str], kind: str) -> str:
    """The least energy of a control step, in arithmetic of a ``kind``, on a ``task`` among agents of these ``labels`` in an ``analysis``."""
    if (price := get_energy_model_name(analysis, kind)) is None:
        return NONE
    priced_rows = [row for row in list_rows(analysis, task, labels) if price in row.energy]
    first = min(priced_rows, key=lambda row: row.energy[price].step.estimate, default=None)
    if first is None:
        return NONE
    metre = (
        f", {format_intervals([first.energy_per_metre[price]], each=True)[0]} µJ per metre"
        if price in first.energy_per_metre
        else ""
    )
    return f"{format_intervals([first.energy[price].step], each=True)[0]} nJ{metre} ({first.label})"


def front(analysis: StudyAnalysis, task: str, kind: str) -> str:
    """The front of score and energy of an ``analysis`` on a ``task``, in arithmetic of a ``kind``."""
    price = get_energy_model_name(analysis, kind)
    return NONE if price is None else join_names(analysis.get_pareto_front(task, price), MAX_LISTED) or NONE


def get_energy_model_name(analysis: StudyAnalysis, kind: str) -> str | None:
    """Return the name of the prices that an ``analysis`` shows first for arithmetic of a ``kind``; None if it has none."""
    found = {shown: name for name, shown in choose_energy_models(analysis.rows.values()).items()}
    return found.get(kind)


def list_spiking_agents(analysis: StudyAnalysis) -> list[str]:
    """Labels of the agents of an ``analysis`` that spike."""
    return [label for label in analysis.labels if label not in analysis.anns]


def list_rows(analysis: StudyAnalysis, task: str, labels: Iterable[str]) -> list[AgentTaskRow]:
    """The rows of an ``analysis`` for a ``task`` and those of the ``labels`` that have one."""
    return [row for label in labels if (row := analysis.rows.get((label, task))) is not None]


def build_energy_rows(kind: str) -> Mapping[str, Callable[[StudyAnalysis, str], str]]:
    """Rows of the table about energy in arithmetic of a ``kind``."""
    return {
        f"energy of the baseline, {kind}": lambda a, task: find_lowest_energy(
            a, task, [str(a.baseline)], kind
        ),
        f"least energy of an agent that spikes, {kind}": lambda a, task: find_lowest_energy(
            a, task, list_spiking_agents(a), kind
        ),
        f"front of score and energy, {kind}": lambda a, task: front(a, task, kind),
    }


MEASURES: Mapping[str, Callable[[StudyAnalysis, str], str]] = {
    "runs that reached the threshold": format_reached,
    "steps to it, median of the baseline": lambda a, task: find_fastest(a, task, [str(a.baseline)]),
    "steps to it, lowest median": lambda a, task: find_fastest(a, task, a.labels),
    "return that the baseline loses": compute_memory_loss,
    **{title: tell for kind in MAIN.values() for title, tell in build_energy_rows(kind).items()},
}
"""Row of the second table -> what of it stands under a task."""
