"""The answer in short, as two tables: verdicts of the tests, and what was measured beside the score.

Better and worse are verdicts of `spiky_rl.experiments.analysis.comparisons`; nothing in the second table is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from spiky_rl.experiments.analysis.comparisons import ALPHA, Comparison
from spiky_rl.experiments.analysis.measures import PRICE, WITH_MEMORY, Row
from spiky_rl.experiments.analysis.outcome import Analysis
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report.blocks import (
    NONE,
    Block,
    Column,
    count,
    listed,
    paragraph,
    plain,
    probability,
    spell,
    spelled,
    table,
)
from spiky_rl.experiments.report.drawing import short
from spiky_rl.experiments.report.threats import tell_reuse

SHOWN = 8
"""Names in a cell, at most."""


def answer(analysis: Analysis) -> Iterable[Block]:
    """The answer of an ``analysis`` in short."""
    if not analysis.rows:
        yield paragraph("No cell has a result yet, so there is no answer.")
        return
    yield from tell_reuse(analysis)
    if analysis.skipped:
        cells = len(analysis.results) + len(analysis.skipped)
        yield paragraph(
            f"{count(len(analysis.skipped), 'cell')} of {cells} gave no numbers; they are named below."
        )
    yield verdicts(analysis) if analysis.comparisons else paragraph("Nothing is compared.")
    rows = {
        title: [measure(analysis, task) for task in analysis.tasks] for title, measure in MEASURES.items()
    }
    rows = {title: cells for title, cells in rows.items() if any(cell != NONE for cell in cells)}
    columns = (
        (Column(task, is_text=True), [cells[i] for cells in rows.values()])
        for i, task in enumerate(analysis.tasks)
    )
    yield table(
        "What was measured, which no test backs",
        list(rows),
        *columns,
        first="measure",
        note=f"Energy is that of a control step: of its arithmetic ({PRICE}), and with what is read and written in memory ({WITH_MEMORY}).",
    )


def verdicts(analysis: Analysis) -> Block:
    """Who is better and worse than the baseline in an ``analysis``, over all tasks and on each; a family without a test has one pair."""
    families = analysis.comparisons.values()
    return table(
        f"Verdicts against {analysis.baseline}",
        list(analysis.comparisons),
        *(
            (
                Column(verdict, is_text=True),
                [listed(told(family, verdict), SHOWN) or "none" for family in families],
            )
            for verdict in ("better", "worse")
        ),
        (
            Column("undecided", "agents"),
            [str(len(told(family, "undecided"))) if family else "all" for family in families],
        ),
        (Column("pairs"), [str(max((c.pairs for c in family), default=1)) for family in families]),
        (
            Column("lowest p", "Holm, attainable"),
            [probability(min((c.attainable for c in family), default=1.0)) for family in families],
        ),
        first="scores of",
        note=(
            "Better and worse: the sign-flip test of paired seeds, corrected by Holm, and the interval of the difference agree. In"
            " brackets: the difference in return, over all tasks in normalised score. Where the lowest p that so many pairs and"
            f" comparisons can give is not below {ALPHA:g}, nothing can be decided."
        ),
    )


def told(family: Sequence[Comparison], verdict: str) -> list[str]:
    """Agents of a ``verdict`` in a ``family`` of comparisons with their differences, the largest first."""
    those = sorted((c for c in family if c.verdict == verdict), key=lambda c: -abs(c.difference.estimate))
    return [f"{c.agent} ({spell(c.difference)})" for c in those]


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


def hardest(analysis: Analysis, task: str) -> str:
    """The condition on a ``task`` under which agents of an ``analysis`` keep the least of their score, and what the baseline keeps."""
    shares: dict[str, dict[str, Interval]] = {}
    for (label, other, condition), remaining in analysis.remaining.items():
        if other == task and remaining.share is not None:
            shares.setdefault(condition, {})[label] = remaining.share
    if not shares:
        return NONE
    means = {name: sum(s.estimate for s in own.values()) / len(own) for name, own in shares.items()}
    worst = min(means, key=means.__getitem__)
    share = shares[worst].get(str(analysis.baseline))
    of_baseline = "" if share is None else f", {spell(share, 0, 100)} % ({analysis.baseline})"
    return f"{worst}: {plain(100 * means[worst], 0)} % in the mean of agents{of_baseline}"


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
    "score kept under the hardest condition": hardest,
    "return that the baseline loses": lost_without_memory,
    **energies(PRICE),
    **energies(WITH_MEMORY, ", with memory"),
}
"""Row of the second table -> what of it stands under a task."""
