"""The section of a report on what actions cost: energy of a control step and of a metre, then counts and every other price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spiky_rl.experiments.analysis.measures import AgentTaskRow, choose_energy_models
from spiky_rl.experiments.analysis.outcome import StudyAnalysis
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_intervals,
    make_collapsible,
    make_figure,
    make_paragraph,
    slug,
    table,
)  # fmt: skip
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, AS_LISTS, CAVEATS, ENERGY_MODELS

COUNTS = {
    "effective_operations": "synaptic",
    "effective_acs": "of them AC",
    "encoder_operations": "encoder",
    "neuron_updates": "neuron updates",
    "arithmetic": "their arithmetic",
}
"""Counts per control step, with the titles of their columns."""
DIFFERENT = 0.01
"""Relative difference from which on lists of synapses change what a network costs."""
ANN = (
    "ANN: one of the same sizes and synapses as the agent that spikes, with ReLU, that skips zeros, half of its hidden activations;"
    " it is counted, not trained."
)
IN_LISTS = "In lists: sparse connections as lists of synapses, without their zeros."
LEFT_OUT = "An ANN of the same sparsity stands beside agents that spike only where results hold its counts; those of earlier versions do not."


def energy(analysis: StudyAnalysis) -> Iterable[Block]:
    """Energy of an action, a metre and an episode in an ``analysis``, under every assumption on prices."""
    shown = choose_energy_models(analysis.rows.values())
    if not shown:
        return
    yield make_paragraph(
        "Counts of operations and of accesses to memory times prices of single ones, of the deterministic policy, undisturbed."
        f" Figures and main tables have two prices for every agent: {'; '.join(ENERGY_MODELS[name].text for name in shown)}."
        " What such energies leave out:"
    )
    yield Block("list", items=[("", f"{caveat[0].upper()}{caveat[1:]}.") for caveat in CAVEATS])
    for task in analysis.tasks:
        rows = [
            row
            for label in analysis.labels
            if (row := analysis.rows.get((label, task))) is not None and row.energy
        ]
        for price, kind in shown.items():
            yield from make_figure(
                f"pareto_{slug(task)}" + ("" if kind == "fp32" else f"_{kind}"), f"Score and energy on {task}, {kind}",
                f"Mean score with its interval over the energy of a control step ({price}, logarithmic). Line: the front of agents"
                " that no other one beats in both, by estimates; their names are bold.",
                lambda task=task, price=price: figures.draw_pareto(analysis, task, price),
            )  # fmt: skip
        if rows:
            yield from tables(task, rows, shown, analysis.anns)


def tables(
    task: str, rows: Sequence[AgentTaskRow], shown: Mapping[str, str], anns: Sequence[str]
) -> Iterable[Block]:
    """Tables of the energies of ``rows`` on a ``task``, the prices that are ``shown`` first; ``anns`` are labels of ANNs."""
    named = [row.label for row in rows]
    lists = {
        AS_LISTS[name]: f"{kind} in lists"
        for name, kind in shown.items()
        if name in AS_LISTS and _differs(rows, name, AS_LISTS[name])
    }
    titles = {**shown, **lists}
    has_ann = [bool(row.ann_energy) for row in rows if row.label not in anns]
    notes = [
        *([IN_LISTS] if lists else []),
        *([ANN] if any(has_ann) else []),
        *([] if all(has_ann) else [LEFT_OUT]),
    ]
    steps = [{name: value.step for name, value in row.energy.items()} for row in rows]
    yield table(
        f"A control step on {task}",
        named,
        *_columns(titles, "nJ", steps, [row.ann_energy for row in rows]),
        note=" ".join(notes),
    )
    if metres := [row for row in rows if row.energy_per_metre]:
        yield table(
            f"A metre on {task}",
            [row.label for row in metres],
            (Column("way", "metres"), format_intervals([row.distance for row in metres], each=True)),
            *_columns(
                titles,
                "µJ",
                [row.energy_per_metre for row in metres],
                [row.ann_energy_per_metre for row in metres],
            ),
            note="Energy of an undisturbed episode by its way, the distance between its beginning and its end; of the ANN, if it went as far.",
        )
    every = dict.fromkeys(name for row in rows for name in row.energy)
    texts = [(f"{name}.", ENERGY_MODELS[name].text) for name in every]
    episodes = [{name: value.episode for name, value in row.energy.items()} for row in rows]
    yield make_collapsible(
        f"Counts on {task}, and every assumption on prices",
        table(
            f"Operations of a control step on {task}",
            named,
            *(
                (
                    Column(title, "per step"),
                    format_intervals([row.counts.get(key) for row in rows], each=True),
                )
                for key, title in COUNTS.items()
            ),
            (
                Column("parameters"),
                format_intervals([row.counts.get("parameters") for row in rows], each=True),
            ),
            note="Effective synaptic operations (EFLOPs): those that took place, those of the decoder among them; AC: with spikes as"
            " inputs, accumulates only.",
        ),
        Block("list", items=texts),
        table(
            f"Energy of a control step on {task}",
            named,
            *_columns({name: name for name in every}, "nJ", steps),
            *_columns(
                {name: f"ANN {name}" for name in ANN_ENERGY_MODELS}, "nJ", [row.ann_energy for row in rows]
            ),
        ),
        table(
            f"An episode on {task}",
            named,
            (Column("length", "control steps"), format_intervals([row.length for row in rows])),
            (
                Column("synaptic", "thousand operations"),
                format_intervals([row.episode_operations for row in rows], 1e-3, each=True),
            ),
            *_columns({name: name for name in every}, "µJ", episodes, scale=1e-3),
        ),
    )


def _differs(rows: Iterable[AgentTaskRow], plain: str, lists: str) -> bool:
    """Whether a network of ``rows`` costs something else under prices that know ``lists``."""
    pairs = [(row.energy[lists], row.energy[plain]) for row in rows if {lists, plain} <= row.energy.keys()]
    return any(abs(a.step.estimate - b.step.estimate) > DIFFERENT * b.step.estimate for a, b in pairs)


def _columns(
    titles: Mapping[str, str],
    unit: str,
    values: Sequence[Mapping[str, Interval]],
    rivals: Sequence[Mapping[str, Interval]] = (),
    scale: float = 1.0,
) -> Iterable[tuple[Column, list[str]]]:
    """A column of ``values``, row by row, for prices of every name of ``titles``, each beside the one of ``rivals``."""
    for name, title in titles.items():
        yield Column(title, unit), format_intervals([row.get(name) for row in values], scale, each=True)
        if rivals:
            yield Column(f"ANN {title}", unit), format_intervals(
                [row.get(name) for row in rivals], scale, each=True
            )
