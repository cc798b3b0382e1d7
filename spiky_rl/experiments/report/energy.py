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
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, LIST_ENERGY_MODELS, CAVEATS, ENERGY_MODELS

COUNTS = {
    "effective_operations": "synaptic",
    "effective_acs": "of them AC",
    "encoder_operations": "encoder",
    "neuron_updates": "neuron updates",
    "arithmetic": "their arithmetic",
}
"""Counts per control step, with the titles of their columns."""
MIN_DIFFERENCE = 0.01
"""Relative difference in energy above which lists of synapses get columns of their own."""
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
        yield from build_task_blocks(analysis, task, shown)


def build_task_blocks(analysis: StudyAnalysis, task: str, shown: Mapping[str, str]) -> Iterable[Block]:
    """Yield figures and tables of the energies on a ``task``; ``shown`` are the main energy models with their column titles."""
    for model, kind in shown.items():
        yield from make_figure(
            f"pareto_{make_slug(task)}" + ("" if kind == "fp32" else f"_{kind}"), f"Score and energy on {task}, {kind}",
            f"Mean score with its interval over the energy of a control step ({model}, logarithmic). Line: the front of agents"
            " that no other agent beats in both, by estimates; their names are bold. Names: in the order of energy.",
            lambda model=model: figures.draw_pareto(analysis, task, model),
        )  # fmt: skip
    if rows := [row for row in analysis.get_task_rows(task) if row.energy]:
        titles = {**shown, **_title_lists(rows, shown)}
        yield make_step_table(task, rows, titles, analysis.anns)
        yield from make_metre_table(task, [row for row in rows if row.energy_per_metre], titles)
        yield make_collapsible(f"Counts on {task}, and all energy models", *make_detail_blocks(task, rows))


def _title_lists(rows: Sequence[AgentTaskRow], shown: Mapping[str, str]) -> dict[str, str]:
    """Return the energy models with lists of synapses that differ from the ``shown`` ones, with the titles of their columns."""
    pairs = {name: LIST_ENERGY_MODELS[name] for name in shown if name in LIST_ENERGY_MODELS}
    return {lists: f"{shown[name]} in lists" for name, lists in pairs.items() if _differs(rows, name, lists)}


def make_step_table(
    task: str, rows: Sequence[AgentTaskRow], titles: Mapping[str, str], anns: Sequence[str]
) -> Block:
    """Return the table of the energies of a control step on a ``task``; ``titles`` of columns are by energy model."""
    has_ann = [bool(row.ann_energy) for row in rows if row.label not in anns]
    notes = {
        IN_LISTS: not titles.keys().isdisjoint(LIST_ENERGY_MODELS.values()),
        ANN: any(has_ann),
        LEFT_OUT: not all(has_ann),
    }
    return make_table(
        f"A control step on {task}",
        [row.label for row in rows],
        *_make_columns(titles, "nJ", [row.energy for row in rows], [row.ann_energy for row in rows]),
        note=" ".join(note for note, applies in notes.items() if applies),
    )


def make_metre_table(task: str, rows: Sequence[AgentTaskRow], titles: Mapping[str, str]) -> Iterable[Block]:
    """Yield the table of the energies of a metre on a ``task``; nothing if no robot moves. See `make_step_table`."""
    if rows:
        energies, ann_energies = [r.energy_per_metre for r in rows], [r.ann_energy_per_metre for r in rows]
        yield make_table(
            f"A metre on {task}",
            [row.label for row in rows],
            Column("way", format_intervals([row.distance for row in rows], each=True), "metres"),
            *_make_columns(titles, "µJ", energies, ann_energies),
            note="Energy of an undisturbed episode by the distance between its start and its end; the ANN's over the same distance.",
        )


def make_counts_table(task: str, rows: Sequence[AgentTaskRow]) -> Block:
    """Return the table of the operations and parameters of the agents on a ``task``."""
    return make_table(
        f"Operations of a control step on {task}",
        [row.label for row in rows],
        *_make_columns(COUNTS, "per step", [row.counts for row in rows]),
        *_make_columns({"parameters": "parameters"}, "", [row.counts for row in rows]),
        note="Effective synaptic operations (EFLOPs): operations that took place, including the decoder's; AC: with spikes as inputs,"
        " accumulates only.",
    )


def make_detail_blocks(task: str, rows: Sequence[AgentTaskRow]) -> Iterable[Block]:
    """Yield the counts on a ``task``, and the energies of a control step and an episode under every energy model."""
    titles = {name: name for row in rows for name in row.energy}
    yield make_counts_table(task, rows)
    yield Block("list", items=[(f"{name}.", ENERGY_MODELS[name].text) for name in titles])
    anns = {name: f"ANN {name}" for name in ANN_ENERGY_MODELS}
    yield make_table(
        f"Energy of a control step on {task}",
        [row.label for row in rows],
        *_make_columns(titles, "nJ", [row.energy for row in rows]),
        *_make_columns(anns, "nJ", [row.ann_energy for row in rows]),
    )
    yield make_episode_table(task, rows, titles)


def make_episode_table(task: str, rows: Sequence[AgentTaskRow], titles: Mapping[str, str]) -> Block:
    """Return the table of the energies of an episode on a ``task``. See `make_step_table`."""
    operations = format_intervals([row.episode_operations for row in rows], 1e-3, each=True)
    return make_table(
        f"An episode on {task}",
        [row.label for row in rows],
        Column("length", format_intervals([row.length for row in rows]), "control steps"),
        Column("synaptic", operations, "thousand operations"),
        *_make_columns(titles, "µJ", [row.episode_energy for row in rows], scale=1e-3),
    )


def _differs(rows: Iterable[AgentTaskRow], plain: str, lists: str) -> bool:
    """Return whether a network has another energy under the energy model ``lists`` than under ``plain``."""
    pairs = [(row.energy[lists], row.energy[plain]) for row in rows if {lists, plain} <= row.energy.keys()]
    return any(abs(a.estimate - b.estimate) > MIN_DIFFERENCE * b.estimate for a, b in pairs)


def _make_columns(
    titles: Mapping[str, str],
    unit: str,
    values: Sequence[Mapping[str, Interval]],
    anns: Sequence[Mapping[str, Interval]] = (),
    scale: float = 1.0,
) -> Iterable[Column]:
    """Yield a column of ``values`` for each count or energy model in ``titles``, followed by that of ``anns``."""
    for name, title in titles.items():
        yield Column(title, format_intervals([row.get(name) for row in values], scale, each=True), unit)
        if anns:
            cells = format_intervals([row.get(name) for row in anns], scale, each=True)
            yield Column(f"ANN {title}", cells, unit)
