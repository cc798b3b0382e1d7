"""Sections of a report on what policies withstand: conditions, damage and recovery, plasticity at work, observations that lack."""

from __future__ import annotations

from collections.abc import Iterable

from spiky_rl.experiments.analysis.measures import MIN_SCORE_SHARE
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_interval,
    format_intervals,
    make_collapsible,
    make_figure,
    table,
)

UNMEASURED_TEXT = {
    "masked": "an observation that lacks velocities",
    "delayed": "an observation that comes late, so that it lacks what happened since",
}
"""What a task's twin of that name lacks."""


def robustness(analysis: StudyAnalysis) -> Iterable[Block]:
    """The section on scores that are left under each condition of an ``analysis``."""
    conditions = [name for name in analysis.conditions if name != "nominal"]
    if not analysis.remaining:
        return
    yield Block("terms", items=[(name, analysis.conditions[name]) for name in conditions])
    least = (
        f" or less than {100 * MIN_SCORE_SHARE:g} % of the baseline's mean score"
        if analysis.reference
        else ""
    )
    yield from make_figure(
        "robustness", "Share of the score that is kept",
        "Score under a condition by the undisturbed score, the mean over seeds; what it means depends on where the task's return"
        f" has its zero. Grey: a seed scores nothing undisturbed{least}, so that there is nothing to keep.",
        lambda: figures.draw_robustness(analysis),
    )  # fmt: skip
    for task in analysis.tasks:
        named = [
            label for label in analysis.labels if any(key[:2] == (label, task) for key in analysis.remaining)
        ]
        columns = {c: [analysis.remaining.get((label, task, c)) for label in named] for c in conditions}
        yield make_collapsible(
            f"Scores and shares on {task}",
            table(
                f"Share of the score that is kept on {task}, in %",
                named,
                *(
                    (Column(c, "%"), [format_interval(cell and cell.share, 0, 100) for cell in cells])
                    for c, cells in columns.items()
                ),
            ),
            table(
                f"Score on {task}, return",
                named,
                (Column("nominal"), format_intervals([analysis.rows[label, task].mean for label in named])),
                *(
                    (Column(c), format_intervals([cell and cell.score for cell in cells]))
                    for c, cells in columns.items()
                ),
            ),
        )
        yield from build_recovery_section(analysis, task)
        yield from build_plasticity_section(analysis, task)


def build_recovery_section(analysis: StudyAnalysis, task: str) -> Iterable[Block]:
    """How policies of an ``analysis`` go on after what happens in mid-episode on a ``task``."""
    shares = {key: share for key, share in analysis.recovery.items() if key[1] == task}
    named = [label for label in analysis.labels if any(key[0] == label for key in shares)]
    conditions = [name for name in analysis.conditions if any(key[2] == name for key in shares)]
    if len(conditions) < 2:
        return
    yield table(
        f"Recovery on {task}, in %",
        named,
        *(
            (Column(name, "%"), [format_interval(shares.get((label, task, name)), 0, 100) for label in named])
            for name in conditions
        ),
        note=(
            "Reward per control step in the last third of the longest episode by that before its middle, where the damage is done;"
            " steps that an episode did not live to see count as none. Episodes that ended before the damage are left out. Nominal:"
            " what the same policy comes to without damage."
        ),
    )


def build_plasticity_section(analysis: StudyAnalysis, task: str) -> Iterable[Block]:
    """The gain of plastic policies of an ``analysis`` on a ``task`` by changing as they act."""
    scores = {key: pair for key, pair in analysis.adapting.items() if key[1] == task}
    for label in dict.fromkeys(key[0] for key in scores):
        own = {key[2]: pair for key, pair in scores.items() if key[0] == label}
        yield table(
            f"{label} on {task} with plasticity at work",
            list(own),
            (Column("frozen", "return"), format_intervals([frozen for frozen, _, _ in own.values()])),
            (Column("changing", "return"), format_intervals([moving for _, moving, _ in own.values()])),
            (
                Column("difference", "paired"),
                format_intervals([gain for _, _, gain in own.values()], least=2),
            ),
            first="condition",
            note="The same policy twice in the same episodes: with its weights as training left them, and changing as it acts.",
        )


def build_memory_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """The section on what hidden velocities or old observations cost in an ``analysis``."""
    for task, masked in dict.fromkeys((m.task, m.masked) for m in analysis.memory):
        losses = [m for m in analysis.memory if (m.task, m.masked) == (task, masked)]
        yield table(
            f"Loss from {task} to {masked}",
            [m.label for m in losses],
            (Column("n", "seeds"), [str(m.seeds) for m in losses]),
            (Column("loss", "return"), format_intervals([m.drop for m in losses], least=2)),
            note=(
                f"{masked} is {task} with {UNMEASURED_TEXT[masked.rpartition('_')[2]]}. Who scores as well has remembered it, or can do"
                " without it: what an agent without memory loses tells how much it is needed."
            ),
        )
