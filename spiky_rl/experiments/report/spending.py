"""The section of a report on what actions cost: operations, energy under named prices, an ANN beside, a metre gone."""

from __future__ import annotations

from collections.abc import Iterable

from spiky_rl.experiments.analysis.measures import PRICE, WITH_MEMORY
from spiky_rl.experiments.analysis.outcome import Analysis
from spiky_rl.experiments.report import figures
from spiky_rl.experiments.report.blocks import Block, Column, figure, paragraph, slug, spelled, table
from spiky_rl.metrics.energy import CAVEATS, PRICES, RIVALS


def energy(analysis: Analysis) -> Iterable[Block]:
    """Energy of an action and an episode in an ``analysis``, under every assumption on prices."""
    names = list(dict.fromkeys(name for row in analysis.rows.values() for name in row.energy))
    if not names:
        return
    texts = [
        (f"{name}.", PRICES[name].text if name in PRICES else "prices of another version") for name in names
    ]
    yield paragraph(
        "Counts of operations times prices of single ones, of the deterministic policy, undisturbed. Prices:"
    )
    yield Block("list", items=texts)
    yield paragraph("What such energies leave out:")
    yield Block("list", items=[("", f"{caveat[0].upper()}{caveat[1:]}.") for caveat in CAVEATS])
    for task in analysis.tasks:
        for price, ending in ((PRICE, ""), (WITH_MEMORY, "_memory")):
            yield from figure(
                f"pareto_{slug(task)}{ending}", f"Score and energy on {task}, {figures.PAID_FOR[price]}",
                f"Mean score with its interval over the energy of a control step ({price}, logarithmic). Line: the front of agents"
                " that no other one beats in both, by estimates; their names are bold.",
                lambda task=task, price=price: figures.pareto(analysis, task, price),
            )  # fmt: skip
        named = [
            label
            for label in analysis.labels
            if (label, task) in analysis.rows and analysis.rows[label, task].energy
        ]
        rows = [analysis.rows[label, task] for label in named]
        energies = {name: [row.energy.get(name) for row in rows] for name in names}
        units = {
            "effective_operations": "synaptic",
            "effective_acs": "of them AC",
            "encoder_operations": "encoder",
        }
        units |= {"neuron_updates": "neuron updates", "arithmetic": "their arithmetic"}
        counts = [
            (Column(title, "per step"), spelled([row.counts.get(key) for row in rows], each=True))
            for key, title in units.items()
        ]
        yield table(
            f"A control step on {task}",
            named,
            *counts,
            *(
                (Column(name, "nJ"), spelled([e and e.step for e in energies[name]], each=True))
                for name in names
            ),
            *(
                (Column(f"ANN {name}", "nJ"), spelled([row.rival.get(name) for row in rows], each=True))
                for name in RIVALS
                if any(name in row.rival for row in rows)
            ),
            (Column("parameters"), spelled([row.counts.get("parameters") for row in rows], each=True)),
            note="Synaptic operations that took place, those of the decoder among them; AC: with spikes as inputs, accumulates only."
            " ANN: one of the same sizes and synapses, with ReLU, that skips zeros, half of its hidden activations.",
        )
        yield table(
            f"An episode on {task}",
            named,
            (Column("length", "control steps"), spelled([row.length for row in rows])),
            (
                Column("synaptic", "thousand operations"),
                spelled([row.episode_operations for row in rows], 1e-3, each=True),
            ),
            *(
                (Column(name, "µJ"), spelled([e and e.episode for e in energies[name]], 1e-3, each=True))
                for name in names
            ),
        )
        metres = [row for row in rows if row.metre]
        if metres:
            yield table(
                f"A metre on {task}",
                [row.label for row in metres],
                *(
                    (Column(name, "µJ"), spelled([row.metre.get(name) for row in metres], each=True))
                    for name in names
                ),
                note="Energy of an undisturbed episode by the distance between its beginning and its end.",
            )
