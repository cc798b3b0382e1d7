"""The section of a report on energy: per control step and per metre, then counts and all energy models."""

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
    make_slug,
    make_table,
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
MIN_DIFFERENCE = 0.01
"""Relative difference from which on lists of synapses have columns of their own."""
ANN = (
    "ANN: an ANN with the sizes and synapses of the spiking agent and ReLU that skips zeros, half of its hidden activations; it is"
    " counted, not trained."
)
IN_LISTS = "In lists: sparse connections as lists of synapses, without their zeros."
LEFT_OUT = "Results of earlier versions have no counts of an ANN of equal sparsity."


def build_energy_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield energies per control step, metre and episode, under every energy model."""
    shown = choose_energy_models(analysis.rows.values())
    if not shown:
        return
    yield make_paragraph(
        "Counts of operations and of memory accesses times the energy of each, of the deterministic policy, undisturbed. Figures and"
        f" main tables have two energy models for every agent: {'; '.join(ENERGY_MODELS[name].text for name in shown)}. Such energies"
        " leave out:"
    )
    yield Block("list", items=[("", f"{caveat[0].upper()}{caveat[1:]}.") for caveat in CAVEATS])
    for task in analysis.tasks:
        rows = [
            row
            for label in analysis.labels
            if (row := analysis.rows.get((label, task))) is not None and row.energy
        ]
        for model, kind in shown.items():
            yield from make_figure(
                f"pareto_{make_slug(task)}" + ("" if kind == "fp32" else f"_{kind}"), f"Score and energy on {task}, {kind}",
                f"Mean score with its interval over the energy of a control step ({model}, logarithmic). Line: the front of agents"
                " that no other agent beats in both, by estimates; their names are bold. Names: in the order of energy.",
                lambda task=task, model=model: figures.draw_pareto(analysis, task, model),
            )  # fmt: skip
        if rows:
            yield from build_energy_tables(task, rows, shown, analysis.anns)


def build_energy_tables(
    task: str, rows: Sequence[AgentTaskRow], shown: Mapping[str, str], anns: Sequence[str]
) -> Iterable[Block]:
    """Yield the tables of the energies of ``rows`` on a ``task``, main energy models ``shown`` first; ``anns`` are labels of ANNs."""
    names = [row.label for row in rows]
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
    yield make_table(
        f"A control step on {task}",
        names,
        *_make_columns(titles, "nJ", steps, [row.ann_energy for row in rows]),
        note=" ".join(notes),
    )
    if moving := [row for row in rows if row.energy_per_metre]:
        energies = [row.energy_per_metre for row in moving]
        yield make_table(
            f"A metre on {task}",
            [row.label for row in moving],
            Column("way", format_intervals([row.distance for row in moving], each=True), "metres"),
            *_make_columns(titles, "µJ", energies, [row.ann_energy_per_metre for row in moving]),
            note="Energy of an undisturbed episode by the distance between its start and its end; the ANN's over the same distance.",
        )
    models = dict.fromkeys(name for row in rows for name in row.energy)
    episodes = [{name: value.episode for name, value in row.energy.items()} for row in rows]
    counts = {key: format_intervals([row.counts.get(key) for row in rows], each=True) for key in COUNTS}
    parameters = format_intervals([row.counts.get("parameters") for row in rows], each=True)
    operations = format_intervals([row.episode_operations for row in rows], 1e-3, each=True)
    yield make_collapsible(
        f"Counts on {task}, and all energy models",
        make_table(
            f"Operations of a control step on {task}",
            names,
            *(Column(title, counts[key], "per step") for key, title in COUNTS.items()),
            Column("parameters", parameters),
            note="Effective synaptic operations (EFLOPs): operations that took place, including the decoder's; AC: with spikes as inputs,"
            " accumulates only.",
        ),
        Block("list", items=[(f"{name}.", ENERGY_MODELS[name].text) for name in models]),
        make_table(
            f"Energy of a control step on {task}",
            names,
            *_make_columns({name: name for name in models}, "nJ", steps),
            *_make_columns(
                {name: f"ANN {name}" for name in ANN_ENERGY_MODELS}, "nJ", [row.ann_energy for row in rows]
            ),
        ),
        make_table(
            f"An episode on {task}",
            names,
            Column("length", format_intervals([row.length for row in rows]), "control steps"),
            Column("synaptic", operations, "thousand operations"),
            *_make_columns({name: name for name in models}, "µJ", episodes, scale=1e-3),
        ),
    )


def _differs(rows: Iterable[AgentTaskRow], plain: str, lists: str) -> bool:
    """Return whether a network has another energy under the energy model ``lists`` than under ``plain``."""
    pairs = [(row.energy[lists], row.energy[plain]) for row in rows if {lists, plain} <= row.energy.keys()]
    return any(abs(a.step.estimate - b.step.estimate) > MIN_DIFFERENCE * b.step.estimate for a, b in pairs)


def _make_columns(
    titles: Mapping[str, str],
    unit: str,
    values: Sequence[Mapping[str, Interval]],
    anns: Sequence[Mapping[str, Interval]] = (),
    scale: float = 1.0,
) -> Iterable[Column]:
    """Yield a column of ``values`` for each energy model in ``titles``, followed by that of ``anns``."""
    for name, title in titles.items():
        yield Column(title, format_intervals([row.get(name) for row in values], scale, each=True), unit)
        if anns:
            cells = format_intervals([row.get(name) for row in anns], scale, each=True)
            yield Column(f"ANN {title}", cells, unit)
