"""The section of a report on what may make its answer wrong: a table of what the results show, each with a fixed reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from spiky_rl.config.tuned import find_shortfall
from spiky_rl.experiments.analysis.measures import Row
from spiky_rl.experiments.analysis.outcome import ALL, Analysis
from spiky_rl.experiments.analysis.results import Result
from spiky_rl.experiments.design.seeds import spell_seeds
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    count,
    listed,
    paragraph,
    plain,
    probability,
    table,
)

type Look = Callable[[Analysis], str]
"""Tells the evidence for a threat; empty where there is none."""
FLAT = 0.02
"""Share of the way from random actions to the score: a curve that rises more than this in its last tenth has not flattened."""
FIXED = (
    "Scores alone are tested; p-values are corrected for the comparisons of one table, not for the number of tables. Steps, times,"
    " operations, energy and robustness are measured beside each other, with intervals but without a test. Intervals speak of these"
    " tasks, not of others; those of normalised scores leave out how uncertain random actions' score and the baseline's mean are."
    " Agents are compared with the values that they have, which were tuned with no equal effort for each unless a tuning is named"
    " above, not neurons or learning rules as such. Wall time is that of cells as they ran, several at once where their machine says so."
)


def tell_reuse(analysis: Analysis) -> Iterable[Block]:
    """Return the sentences of an ``analysis`` that belong beside its answer: seeds that were chosen with, arms from other studies."""
    if told := [reuse.text for reuse in analysis.history.biased]:
        why = f" Why: {analysis.design.reused_seeds}." if analysis.design.reused_seeds else ""
        yield paragraph(f"Seeds are used again that were tuned or chosen with: {'; '.join(told)}.{why}")
    if analysis.arms:
        arms = ", ".join(f"{label} of {study}" for label, study in analysis.arms.items())
        yield paragraph(f"Taken in from other studies: {arms}.")


def threats(analysis: Analysis) -> Iterable[Block]:
    """The table of an ``analysis``, from the strongest threat on; one of which there is nothing has no row."""
    rows = [(what, told, why) for what, (why, look) in THREATS.items() if (told := look(analysis))]
    yield table(
        "What may make the answer wrong",
        [what for what, _, _ in rows],
        (Column("evidence", is_text=True), [told for _, told, _ in rows]),
        (Column("what that means", is_text=True), [why for _, _, why in rows]),
        first="threat",
    )
    yield paragraph(FIXED)


def by_name(texts: Mapping[str, str]) -> str:
    """``task: text; task: text`` of those ``texts`` that are not empty."""
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def seeds(analysis: Analysis) -> str:
    """How many each agent of an ``analysis`` has."""
    sizes = sorted({len(row.by_seed) for row in analysis.rows.values()})
    if not sizes:
        return ""
    return f"{f'{sizes[0]} to ' if len(sizes) > 1 else ''}{count(sizes[-1], 'seed')} of each agent per task"


def undecidable(analysis: Analysis) -> str:
    """The lowest p of families of tests of an ``analysis`` in which none can be low enough."""
    lowest = {
        name: (min(c.attainable for c in family), family[0].alpha)
        for name, family in analysis.comparisons.items()
        if family
    }
    return by_name({name: f"p ≥ {probability(p)}" for name, (p, alpha) in lowest.items() if p >= alpha})


def without_numbers(analysis: Analysis) -> str:
    """Cells of an ``analysis`` that gave no numbers, by what became of them."""
    statuses = dict.fromkeys(cell.status for cell in analysis.skipped)
    return by_name({s: listed(cell.cell for cell in analysis.skipped if cell.status == s) for s in statuses})


def alone(analysis: Analysis) -> str:
    """Agents of an ``analysis`` that stand in no comparison."""
    left = {}
    for name, family in analysis.comparisons.items():
        compared = {analysis.baseline, *(c.agent for c in family)}
        there = [label for label in analysis.labels if name == ALL or (label, name) in analysis.rows]
        left[name] = listed(label for label in there if label not in compared)
    return by_name(left)


def rising(analysis: Analysis) -> str:
    """Agents of an ``analysis`` whose training return had not flattened."""

    def rises(row: Row) -> bool:
        way = abs(row.mean.estimate - analysis.random.get(row.task, 0.0))
        return row.rise is not None and row.rise.estimate > FLAT * way

    return listed((f"{row.label} on {row.task}" for row in analysis.rows.values() if rises(row)), 8)


def span(tolerated: float, unit: str, value: Callable[[Result], float | None]) -> Look:
    """Tells, task by task, from the least to the most that agents have.

    Args:
        tolerated: How many times the least the most may be without being told.
        unit: Unit of the value.
        value: Tells a cell's; None: it has none.
    """

    def look(analysis: Analysis) -> str:
        told = {}
        for task in analysis.tasks:
            sizes = {r.label: v for r in analysis.results if r.task == task and (v := value(r)) is not None}
            least, most = (f(sizes, key=sizes.__getitem__, default="") for f in (min, max))
            if sizes and sizes[most] > tolerated * sizes[least]:
                told[task] = " to ".join(
                    f"{plain(sizes[label], 0)} {unit} ({label})" for label in (least, most)
                )
        return by_name(told)

    return look


def differing(values: Callable[[Result], Mapping[str, str | None]], absent: str | None = None) -> Look:
    """Tells by name the values that cells which are compared have, where they differ.

    Args:
        values: Tells a cell's, by name.
        absent: What stands for one that a cell does not have; None: nothing does.
    """

    def look(analysis: Analysis) -> str:
        held = [values(result) for result in analysis.results]
        names = dict.fromkeys(name for own in held for name in own)
        sets = {name: {str(v) for own in held if (v := own.get(name, absent)) is not None} for name in names}
        return by_name({name: " / ".join(sorted(those)) for name, those in sets.items() if len(those) > 1})

    return look


def tuned_for_other(analysis: Analysis) -> str:
    """Agents of an ``analysis`` that were tuned as something else than what they are."""
    told = {}
    for cell in analysis.planned:
        tasks = analysis.tuned[cell.agent].tasks if cell.agent in analysis.tuned else {}
        if (then := tasks.get(cell.task, {}).get(cell.agent)) is None:
            continue
        pairs = {
            "specification": (cell.base_hash, then.specification),
            "physics": (cell.physics, then.physics),
        }
        known = {what: pair for what, pair in pairs.items() if None not in pair}
        told[f"{cell.agent} on {cell.task}"] = ", ".join(
            f"{what} {now}, tuned with {before}" for what, (now, before) in known.items() if now != before
        )
    return by_name(told)


def looked_at_later(analysis: Analysis) -> str:
    """Return which verdicts of an ``analysis`` were not planned before the first cell; empty if all were."""
    plan = analysis.design.plan
    if plan is None:
        return "no comparison was planned"
    later = sorted({r.seed for r in analysis.results if r.kind == "trained"} - {*plan.seeds})
    told = (
        []
        if analysis.verdicts and analysis.verdicts[0].is_planned
        else [f"the plan is of {plan.date}, after a first result"]
    )
    return "; ".join([*told, *([f"seeds added since: {listed(map(str, later))}"] if later else [])])


def without_control(analysis: Analysis) -> str:
    """Spiking agents of an ``analysis`` beside which no ANN of equal size stands."""
    return by_name(
        {
            task: listed(f"{label} ({widths})" for label, widths in own.items())
            for task, own in analysis.uncontrolled.items()
        }
    )


def find_small_tunings(analysis: Analysis) -> str:
    """Return the tunings of an ``analysis`` that have too few trials or seeds."""
    held = {
        find_tuning(analysis.design.tuning, agent): find_shortfall(tuned.trials, len(tuned.seeds))
        for agent, tuned in analysis.tuned.items()
    }
    return by_name(held)


def find_unequal_tunings(analysis: Analysis) -> str:
    """Return the agents of an ``analysis`` by tuning; empty if all agents have the same."""
    agents: dict[str, list[str]] = {}
    for stem in analysis.design.stems:
        agents.setdefault(find_tuning(analysis.design.tuning, stem), []).append(stem)
    named = {source or "none": listed(stems, len(stems)) for source, stems in agents.items()}
    return by_name(named) if len(agents) > 1 else ""


def look_alike(analysis: Analysis) -> str:
    """Robots of an ``analysis`` that are not Isaac Lab's own."""
    robots = sorted({result.assets for result in analysis.results})
    return "; ".join(name for name in robots if "look-alike" in name or "derived" in name)


def origin(result: Result, key: str) -> str:
    """Return what a ``result`` says of its provenance under a ``key``, in words where it says nothing."""
    if result.provenance is None:
        return "not recorded"
    return str(getattr(result.provenance, key) or "none")


THREATS: Mapping[str, tuple[str, Look]] = {
    "Seeds": ("Fewer than 10 make wide intervals and weak tests; one says nothing of others.", seeds),
    "Seeds chosen with": (
        "What was chosen by its return on a seed returns more there than on others.",
        lambda a: "; ".join([*(r.text for r in a.history.biased), *filter(None, [a.design.reused_seeds])]),
    ),
    "Seeds tested before": (
        "Studies that share seeds are no independent evidence.",
        lambda a: "; ".join(
            f"{spell_seeds(r.seeds)} of {r.task}: {r.before.study}" for r in a.history.tested
        ),
    ),
    "Arms from other studies": (
        "They ran at another time, and their seeds were tested there.",
        lambda a: by_name(a.arms),
    ),
    "Tests that cannot decide": ("Undecided says nothing there.", undecidable),
    "Looked at later": (
        "Who chooses what to compare after seeing results finds something by chance more often than a p-value says.",
        looked_at_later,
    ),
    "No ANN of equal size": (
        "What differs from an ANN of other widths or rates is not the spikes alone.",
        without_control,
    ),
    "Cells without numbers": ("If they fail because of their agent, those left flatter it.", without_numbers),
    "Agents not compared": ("They have too few results in common with the baseline.", alone),
    "No plan": ("Cells that never began are not known.", lambda a: a.plan_problem),
    "Interrupted trainings": (
        "They went on from a checkpoint, which is not the run that was not interrupted; seconds are those of its last part.",
        lambda a: listed(r.cell for r in a.results if r.resumed),
    ),
    "Training not over": (
        f"The return rose by more than {100 * FLAT:g} % of what was learned in the last tenth of the iterations: with a larger budget"
        " the order may be another.",
        rising,
    ),
    "Overrides": ("They hold for all agents, whomever they suit.", lambda a: listed(a.design.overrides, 20)),
    "Tuned as something else": (
        "The agent's own values or the physics are others than those of the tuning: its values may not be the best any more.",
        tuned_for_other,
    ),
    "Tuned by little": (
        "What so few trials choose is chance as much as merit, and may be worse than the agent as its file has it.",
        find_small_tunings,
    ),
    "Tuned unequally": (
        "What one agent gains on another may be its tuning: only agents of the same tuning were tuned with equal effort.",
        find_unequal_tunings,
    ),
    "Variants": (
        "Who picks the best variant of an agent by these scores has tuned it on the test.",
        lambda a: listed(a.design.vary),
    ),
    "Unequal networks": (
        "A larger network may score higher for that.",
        span(1.5, "parameters", lambda r: r.cost.parameters if r.cost else None),
    ),
    "Unequal experience": (
        "A longer training may, too.",
        span(1.01, "environment steps", lambda r: r.training.env_steps if r.training else None),
    ),
    "Machines": (
        "Seconds are not comparable, and last digits may differ.",
        differing(lambda r: {"cells": r.machine}),
    ),
    "Devices": ("Numbers may differ by device.", differing(lambda r: {"cells": r.device})),
    "Robots": ("Scores are not comparable.", differing(lambda r: {"cells": r.assets})),
    "Physics": ("Scores are not comparable.", differing(lambda r: {r.task: r.physics})),
    "Environments": ("Numbers of them differ.", differing(lambda r: {r.task: str(r.num_envs)})),
    "Episodes": ("Numbers of them differ.", differing(lambda r: {r.task: str(r.episodes)})),
    "Conditions": (
        "Not all cells were evaluated under the same.",
        differing(lambda r: {name: condition.text for name, condition in r.conditions.items()}),
    ),
    "Versions": ("Cells ran with different ones.", differing(lambda r: r.versions, "absent")),
    "Commits": (
        "What is no kernel and no library was not the same for all cells; -dirty: nor is it in any commit.",
        differing(lambda r: {"cells": origin(r, "commit")}),
    ),
    "Kernels": (
        "Cells ran other programs: the same specification may give other numbers.",
        differing(lambda r: {"sources": origin(r, "kernels")}),
    ),
    "Threads": (
        "Sums of other orders: the same specification gives other numbers.",
        differing(lambda r: {"cells": origin(r, "threads")}),
    ),
    "Specifications": (
        "Not all seeds were trained with the same one.",
        differing(lambda r: {f"{r.label} on {r.task}": r.spec_hash}),
    ),
    "Look-alike robots": ("Scores compare with each other, not with published curves.", look_alike),
}
"""Threat -> what it means, and what tells how much of it there is; from the strongest on."""
