"""Sections of a report on what policies withstand: conditions, damage and recovery, plasticity at work, observations that lack."""

from __future__ import annotations

from collections.abc import Iterable

from spiky_rl.experiments.analysis.measures import LEAST
from spiky_rl.experiments.analysis.outcome import Analysis
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import Block, Column, figure, folded, spell, spelled, table

LACKING = {
    "masked": "an observation that lacks velocities",
    "delayed": "an observation that comes late, so that it lacks what happened since",
}
"""What a task's twin of that name lacks."""


def robustness(analysis: Analysis) -> Iterable[Block]:
    """The section on scores that are left under each condition of an ``analysis``."""
    conditions = [name for name in analysis.conditions if name != "nominal"]
    if not analysis.remaining:
        return
    yield Block("terms", items=[(name, analysis.conditions[name]) for name in conditions])
    least = f" or less than {100 * LEAST:g} % of the baseline's mean score" if analysis.reference else ""
    yield from figure(
        "robustness", "Share of the score that is kept",
        "Score under a condition by the undisturbed score, the mean over seeds; what it means depends on where the task's return"
        f" has its zero. Grey: a seed scores nothing undisturbed{least}, so that there is nothing to keep.",
        lambda: figures.robustness(analysis),
    )  # fmt: skip
    for task in analysis.tasks:
        named = [
            label for label in analysis.labels if any(key[:2] == (label, task) for key in analysis.remaining)
        ]
        columns = {c: [analysis.remaining.get((label, task, c)) for label in named] for c in conditions}
        yield folded(
            f"Scores and shares on {task}",
            table(
                f"Share of the score that is kept on {task}, in %",
                named,
                *(
                    (Column(c, "%"), [spell(cell and cell.share, 0, 100) for cell in cells])
                    for c, cells in columns.items()
                ),
            ),
            table(
                f"Score on {task}, return",
                named,
                (Column("nominal"), spelled([analysis.rows[label, task].mean for label in named])),
                *(
                    (Column(c), spelled([cell and cell.score for cell in cells]))
                    for c, cells in columns.items()
                ),
            ),
        )
        yield from recovery(analysis, task)
        yield from adapting(analysis, task)


def recovery(analysis: Analysis, task: str) -> Iterable[Block]:
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
            (Column(name, "%"), [spell(shares.get((label, task, name)), 0, 100) for label in named])
            for name in conditions
        ),
        note=(
            "Reward per control step in the last third of the longest episode by that before its middle, where the damage is done;"
            " steps that an episode did not live to see count as none. Episodes that ended before the damage are left out. Nominal:"
            " what the same policy comes to without damage."
        ),
    )


def adapting(analysis: Analysis, task: str) -> Iterable[Block]:
    """The gain of plastic policies of an ``analysis`` on a ``task`` by changing as they act."""
    scores = {key: pair for key, pair in analysis.adapting.items() if key[1] == task}
    for label in dict.fromkeys(key[0] for key in scores):
        own = {key[2]: pair for key, pair in scores.items() if key[0] == label}
        yield table(
            f"{label} on {task} with plasticity at work",
            list(own),
            (Column("frozen", "return"), spelled([frozen for frozen, _, _ in own.values()])),
            (Column("changing", "return"), spelled([moving for _, moving, _ in own.values()])),
            (Column("difference", "paired"), spelled([gain for _, _, gain in own.values()], least=2)),
            first="condition",
            note="The same policy twice in the same episodes: with its weights as training left them, and changing as it acts.",
        )


def memory(analysis: Analysis) -> Iterable[Block]:
    """The section on what hidden velocities or old observations cost in an ``analysis``."""
    for task, masked in dict.fromkeys((m.task, m.masked) for m in analysis.memory):
        losses = [m for m in analysis.memory if (m.task, m.masked) == (task, masked)]
        yield table(
            f"Loss from {task} to {masked}",
            [m.label for m in losses],
            (Column("n", "seeds"), [str(m.seeds) for m in losses]),
            (Column("loss", "return"), spelled([m.drop for m in losses], least=2)),
            note=(
                f"{masked} is {task} with {LACKING[masked.rpartition('_')[2]]}. Who scores as well has remembered it, or can do"
                " without it: what an agent without memory loses tells how much it is needed."
            ),
        )
