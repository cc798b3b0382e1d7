"""Sections of a report on robustness: conditions, recovery from damage, plasticity, and hidden or late observations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spiky_rl.experiments.analysis.measures import MIN_SCORE_SHARE
from spiky_rl.experiments.analysis.outcome import StudyAnalysis, get_stem, keep_known
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_interval,
    format_intervals,
    make_collapsible,
    make_figure,
    make_table,
)

UNMEASURED_TEXT = {"masked": "without velocities in the observation", "delayed": "with late observations"}
"""Suffix of a task's twin -> what differs in the twin."""


def build_robustness_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the scores under each condition, the recovery from damage, and the gain of plasticity."""
    conditions = [name for name in analysis.conditions if name != "nominal"]
    if analysis.remaining:
        yield Block("terms", items=[(name, analysis.conditions[name]) for name in conditions])
    least = (
        f" or less than {100 * MIN_SCORE_SHARE:g} % of the baseline's mean score"
        if analysis.reference
        else ""
    )
    yield from make_figure(
        "robustness", "Share of the score that is kept",
        "Score under a condition by the undisturbed score, mean over seeds; its meaning depends on the zero of the task's return."
        f" Grey: a seed scores nothing undisturbed{least}, so there is nothing to keep.",
        lambda: figures.draw_robustness(analysis),
    )  # fmt: skip
    for task in analysis.tasks:
        yield from build_condition_tables(analysis, task, conditions)
        yield from build_recovery_section(analysis, task)
        yield from build_plasticity_section(analysis, task)


def build_condition_tables(analysis: StudyAnalysis, task: str, conditions: Sequence[str]) -> Iterable[Block]:
    """Yield the collapsed tables of scores and of kept shares under ``conditions`` on a ``task``; nothing if none was measured there."""
    remaining = _select_task(analysis.remaining, task)
    if not remaining:
        return
    names = keep_known(analysis.labels, {label for label, _ in remaining})
    shares, scores = list[Column](), list[Column]()
    for condition in conditions:
        found = [remaining.get((label, condition)) for label in names]
        shares.append(Column(condition, [format_interval(s and s.share, 0, 100) for s in found], "%"))
        scores.append(Column(condition, format_intervals([s and s.score for s in found])))
    nominal = Column("nominal", format_intervals([row.mean for row in analysis.get_task_rows(task, names)]))
    yield make_collapsible(
        f"Scores and shares on {task}",
        make_table(f"Share of the score that is kept on {task}, in %", names, *shares),
        make_table(f"Score on {task}, return", names, nominal, *scores),
    )


def build_recovery_section(analysis: StudyAnalysis, task: str) -> Iterable[Block]:
    """Yield the recovery of policies after damage in mid-episode on a ``task``."""
    shares = _select_task(analysis.recovery, task)
    names = keep_known(analysis.labels, {label for label, _ in shares})
    conditions = keep_known(analysis.conditions, {condition for _, condition in shares})
    if len(conditions) < 2:  # nominal alone: no condition does damage
        return
    columns = (
        Column(name, [format_interval(shares.get((label, name)), 0, 100) for label in names], "%")
        for name in conditions
    )
    yield make_table(
        f"Recovery on {task}, in %",
        names,
        *columns,
        note="Reward per control step in the last third of the longest episode by that before its middle, when damage occurs; steps after"
        " an episode's end count as zero. Episodes that ended before the damage are left out. Nominal: the same policy without damage.",
    )


def build_plasticity_section(analysis: StudyAnalysis, task: str) -> Iterable[Block]:
    """Yield the gain of plastic policies on a ``task`` from changing as they act."""
    scores = _select_task(analysis.adapting, task)
    for label in dict.fromkeys(label for label, _ in scores):
        own = {condition: found for (other, condition), found in scores.items() if other == label}
        frozen, plastic, gain = zip(*own.values(), strict=True)
        yield make_table(
            f"{label} on {task} with plasticity at work",
            list(own),
            Column("frozen", format_intervals(frozen), "return"),
            Column("changing", format_intervals(plastic), "return"),
            Column("difference", format_intervals(gain, least=2), "paired"),
            first="condition",
            note="The same policy twice in the same episodes: with its trained weights, and with weights that change as it acts.",
        )


def _select_task[T](values: Mapping[tuple[str, str, str], T], task: str) -> dict[tuple[str, str], T]:
    """Return the ``values`` on a ``task`` by label and condition."""
    return {(label, name): value for (label, other, name), value in values.items() if other == task}


def build_memory_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the loss by hidden velocities or late observations."""
    for task, masked in dict.fromkeys((m.task, m.masked) for m in analysis.memory):
        losses = [m for m in analysis.memory if (m.task, m.masked) == (task, masked)]
        yield make_table(
            f"Loss from {task} to {masked}",
            [m.label for m in losses],
            Column("n", [str(m.seeds) for m in losses], "seeds"),
            Column("loss", format_intervals([m.drop for m in losses], least=2), "return"),
            note=f"{masked} is {task} {UNMEASURED_TEXT[get_stem(masked).rpartition('_')[2]]}. An agent that scores as well there has remembered the"
            " missing information or does not need it: the loss of an agent without memory shows how much it is needed.",
        )
