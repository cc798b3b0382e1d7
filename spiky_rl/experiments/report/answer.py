"""The answer in short: the first screen, with the verdicts of all tests, and below it measures that no test backs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from spiky_rl.experiments.analysis.measures import PRICE, WITH_MEMORY, Row
from spiky_rl.experiments.analysis.outcome import Analysis
from spiky_rl.experiments.report.blocks import (
    NONE,
    Block,
    Column,
    count,
    folded,
    listed,
    paragraph,
    spell,
    spelled,
    table,
)
from spiky_rl.experiments.report.drawing import short
from spiky_rl.experiments.report.verdicts import first_screen

SHOWN = 8
"""Names in a cell, at most."""


def answer(analysis: Analysis) -> Iterable[Block]:
    """The answer of an ``analysis`` in short."""
    if not analysis.rows:
        yield paragraph("No cell has a result yet, so there is no answer.")
        return
    if analysis.skipped:
        cells = len(analysis.results) + len(analysis.skipped)
        yield paragraph(
            f"{count(len(analysis.skipped), 'cell')} of {cells} gave no numbers; they are named below."
        )
    yield from first_screen(analysis)
    rows = {
        title: [measure(analysis, task) for task in analysis.tasks] for title, measure in MEASURES.items()
    }
    rows = {title: cells for title, cells in rows.items() if any(cell != NONE for cell in cells)}
    columns = (
        (Column(task, is_text=True), [cells[i] for cells in rows.values()])
        for i, task in enumerate(analysis.tasks)
    )
    note = f"Energy is that of a control step: of its arithmetic ({PRICE}), and with what is read and written in memory ({WITH_MEMORY})."
    yield folded(
        "Beside it, without a test", table("Measures", list(rows), *columns, first="measure", note=note)
    )


def reached(analysis: Analysis, task: str) -> str:
    """How many runs of an ``analysis`` came to the threshold of a ``task``."""
    ends = [row.threshold for (_, other), row in analysis.rows.items() if other == task and row.threshold]
    runs = sum(threshold.reached for threshold in ends), sum(threshold.runs for threshold in ends)
    return f"{runs[0]} of {runs[1]} (return {analysis.solved[task]:g})" if ends else NONE


def soonest(analysis: Analysis, task: str, labels: Iterable[str]) -> str:
    """The lowest median of environment steps to a ``task``'s threshold among agents of these ``labels`` in an ``analysis``."""
    known = {
        row.label: row.threshold.median
        for row in rows_of(analysis, task, labels)
        if row.threshold and row.threshold.median
    }
    first = min(known, key=known.__getitem__, default=None)
    return NONE if first is None else f"{short(known[first])} ({first})"


def lost_without_memory(analysis: Analysis, task: str) -> str:
    """The score that the baseline of an ``analysis`` loses on the twins of a ``task`` whose observations lack something."""
    own = [m for m in analysis.memory if m.task == task and m.label == analysis.baseline]
    return "; ".join(f"{spell(m.drop)} ({m.masked})" for m in own) or NONE


def thriftiest(analysis: Analysis, task: str, labels: Iterable[str], price: str) -> str:
    """The least energy of a control step under a ``price`` on a ``task`` among agents of these ``labels`` in an ``analysis``."""
    rows = rows_of(analysis, task, labels)
    steps = {row.label: row.energy[price].step for row in rows if price in row.energy}
    first = min(steps, key=lambda label: steps[label].estimate, default=None)
    return NONE if first is None else f"{spelled([steps[first]], each=True)[0]} nJ ({first})"


def spiking(analysis: Analysis) -> list[str]:
    """Labels of the agents of an ``analysis`` that spike."""
    return [label for label in analysis.labels if label not in analysis.anns]


def rows_of(analysis: Analysis, task: str, labels: Iterable[str]) -> list[Row]:
    """The rows of an ``analysis`` for a ``task`` and those of the ``labels`` that have one."""
    return [row for label in labels if (row := analysis.rows.get((label, task))) is not None]


def energies(price: str, ending: str = "") -> Mapping[str, Callable[[Analysis, str], str]]:
    """Rows of the table about energy under a ``price``, whose names have this ``ending``."""
    return {
        f"energy of the baseline{ending}": lambda a, task: thriftiest(a, task, [str(a.baseline)], price),
        f"least energy of an agent that spikes{ending}": lambda a, task: thriftiest(
            a, task, spiking(a), price
        ),
        f"front of score and energy{ending}": lambda a, task: listed(a.front(task, price), SHOWN) or NONE,
    }


MEASURES: Mapping[str, Callable[[Analysis, str], str]] = {
    "runs that reached the threshold": reached,
    "steps to it, median of the baseline": lambda a, task: soonest(a, task, [str(a.baseline)]),
    "steps to it, lowest median": lambda a, task: soonest(a, task, a.labels),
    "return that the baseline loses": lost_without_memory,
    **energies(PRICE),
    **energies(WITH_MEMORY, ", with memory"),
}
"""Row of the second table -> what of it stands under a task."""
