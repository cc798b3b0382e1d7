"""The section of a report on what may make its answer wrong: a table of what the results show, each with a fixed reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from spiky_rl.config.tuned_values import find_shortfall
from spiky_rl.experiments.analysis.measures import AgentTaskRow
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis
from spiky_rl.experiments.design.seeds import format_seeds
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_count,
    format_fixed,
    join_names,
    make_paragraph,
    probability,
    table,
)
from spiky_rl.experiments.run.results import CellResult

type Look = Callable[[StudyAnalysis], str]
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


def build_reuse_notes(analysis: StudyAnalysis) -> Iterable[Block]:
    """Return the sentences of an ``analysis`` that belong beside its answer: seeds that were chosen with, arms from other studies."""
    if told := [reuse.text for reuse in analysis.history.biased]:
        why = f" Why: {analysis.design.reused_seeds}." if analysis.design.reused_seeds else ""
        yield make_paragraph(f"Seeds are used again that were tuned or chosen with: {'; '.join(told)}.{why}")
    if analysis.arms:
        arms = ", ".join(f"{label} of {study}" for label, study in analysis.arms.items())
        yield make_paragraph(f"Taken in from other studies: {arms}.")


def threats(analysis: StudyAnalysis) -> Iterable[Block]:
    """The table of an ``analysis``, from the strongest threat on; one of which there is nothing has no row."""
    rows = [(what, told, why) for what, (why, look) in THREATS.items() if (told := look(analysis))]
    yield table(
        "What may make the answer wrong",
        [what for what, _, _ in rows],
        (Column("evidence", is_text=True), [told for _, told, _ in rows]),
        (Column("what that means", is_text=True), [why for _, _, why in rows]),
        first="threat",
    )
    yield make_paragraph(FIXED)


def format_by_task(texts: Mapping[str, str]) -> str:
    """``task: text; task: text`` of those ``texts`` that are not empty."""
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def describe_seeds(analysis: StudyAnalysis) -> str:
    """How many each agent of an ``analysis`` has."""
    sizes = sorted({len(row.by_seed) for row in analysis.rows.values()})
    if not sizes:
        return ""
    return f"{f'{sizes[0]} to ' if len(sizes) > 1 else ''}{format_count(sizes[-1], 'seed')} of each agent per task"


def list_underpowered_tests(analysis: StudyAnalysis) -> str:
    """The lowest p of families of tests of an ``analysis`` in which none can be low enough."""
    lowest = {
        name: (min(c.min_p_value for c in family), family[0].alpha)
        for name, family in analysis.comparisons.items()
        if family
    }
    return format_by_task(
        {name: f"p ≥ {probability(p)}" for name, (p, alpha) in lowest.items() if p >= alpha}
    )


def list_cells_without_numbers(analysis: StudyAnalysis) -> str:
    """Cells of an ``analysis`` that gave no numbers, by what became of them."""
    statuses = dict.fromkeys(cell.status for cell in analysis.skipped)
    return format_by_task(
        {s: join_names(cell.cell for cell in analysis.skipped if cell.status == s) for s in statuses}
    )


def list_uncompared_agents(analysis: StudyAnalysis) -> str:
    """Agents of an ``analysis`` that stand in no comparison."""
    left = {}
    for name, family in analysis.comparisons.items():
        compared = {analysis.baseline, *(c.agent for c in family)}
        there = [label for label in analysis.labels if name == ALL or (label, name) in analysis.rows]
        left[name] = join_names(label for label in there if label not in compared)
    return format_by_task(left)


def list_unconverged_agents(analysis: StudyAnalysis) -> str:
    """Agents of an ``analysis`` whose training return had not flattened."""

    def rises(row: AgentTaskRow) -> bool:
        way = abs(row.mean.estimate - analysis.random.get(row.task, 0.0))
        return row.final_slope is not None and row.final_slope.estimate > FLAT * way

    return join_names((f"{row.label} on {row.task}" for row in analysis.rows.values() if rises(row)), 8)


def make_spread_check(tolerated: float, unit: str, value: Callable[[CellResult], float | None]) -> Look:
    """Tells, task by task, from the least to the most that agents have.

    Args:
        tolerated: How many times the least the most may be without being told.
        unit: Unit of the value.
        value: Tells a cell's; None: it has none.
    """

    def look(analysis: StudyAnalysis) -> str:
        told = {}
        for task in analysis.tasks:
            sizes = {r.label: v for r in analysis.results if r.task == task and (v := value(r)) is not None}
            least, most = (f(sizes, key=sizes.__getitem__, default="") for f in (min, max))
            if sizes and sizes[most] > tolerated * sizes[least]:
                told[task] = " to ".join(
                    f"{format_fixed(sizes[label], 0)} {unit} ({label})" for label in (least, most)
                )
        return format_by_task(told)

    return look


def make_difference_check(
    values: Callable[[CellResult], Mapping[str, str | None]], absent: str | None = None
) -> Look:
    """Tells by name the values that cells which are compared have, where they differ.

    Args:
        values: Tells a cell's, by name.
        absent: What stands for one that a cell does not have; None: nothing does.
    """

    def look(analysis: StudyAnalysis) -> str:
        held = [values(result) for result in analysis.results]
        names = dict.fromkeys(name for own in held for name in own)
        sets = {name: {str(v) for own in held if (v := own.get(name, absent)) is not None} for name in names}
        return format_by_task(
            {name: " / ".join(sorted(those)) for name, those in sets.items() if len(those) > 1}
        )

    return look


def list_changed_tunings(analysis: StudyAnalysis) -> str:
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
    return format_by_task(told)


def describe_late_plan(analysis: StudyAnalysis) -> str:
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
    return "; ".join([*told, *([f"seeds added since: {join_names(map(str, later))}"] if later else [])])


def list_uncontrolled_agents(analysis: StudyAnalysis) -> str:
    """Spiking agents of an ``analysis`` beside which no ANN of equal size stands."""
    return format_by_task(
        {
            task: join_names(f"{label} ({widths})" for label, widths in own.items())
            for task, own in analysis.uncontrolled.items()
        }
    )


def find_small_tunings(analysis: StudyAnalysis) -> str:
    """Return the tunings of an ``analysis`` that have too few trials or seeds."""
    held = {
        find_tuning(analysis.design.tuning, agent): find_shortfall(tuned.trials, len(tuned.seeds))
        for agent, tuned in analysis.tuned.items()
    }
    return format_by_task(held)


def find_unequal_tunings(analysis: StudyAnalysis) -> str:
    """Return the agents of an ``analysis`` by tuning; empty if all agents have the same."""
    agents: dict[str, list[str]] = {}
    for stem in analysis.design.agent_names:
        agents.setdefault(find_tuning(analysis.design.tuning, stem), []).append(stem)
    named = {source or "none": join_names(stems, len(stems)) for source, stems in agents.items()}
    return format_by_task(named) if len(agents) > 1 else ""


def list_local_assets(analysis: StudyAnalysis) -> str:
    """Robots of an ``analysis`` that are not Isaac Lab's own."""
    robots = sorted({result.assets for result in analysis.results})
    return "; ".join(name for name in robots if "look-alike" in name or "derived" in name)


def origin(result: CellResult, key: str) -> str:
    """Return what a ``result`` says of its provenance under a ``key``, in words where it says nothing."""
    if result.provenance is None:
        return "not recorded"
    return str(getattr(result.provenance, key) or "none")


THREATS: Mapping[str, tuple[str, Look]] = {
    "Seeds": (
        "Fewer than 10 make wide intervals and weak tests; one says nothing of others.",
        describe_seeds,
    ),
    "Seeds chosen with": (
        "What was chosen by its return on a seed returns more there than on others.",
        lambda a: "; ".join([*(r.text for r in a.history.biased), *filter(None, [a.design.reused_seeds])]),
    ),
    "Seeds tested before": (
        "Studies that share seeds are no independent evidence.",
        lambda a: "; ".join(
            f"{format_seeds(r.seeds)} of {r.task}: {r.before.study}" for r in a.history.tested
        ),
    ),
    "Arms from other studies": (
        "They ran at another time, and their seeds were tested there.",
        lambda a: format_by_task(a.arms),
    ),
    "Tests that cannot decide": ("Undecided says nothing there.", list_underpowered_tests),
    "Looked at later": (
        "Who chooses what to compare after seeing results finds something by chance more often than a p-value says.",
        describe_late_plan,
    ),
    "No ANN of equal size": (
        "What differs from an ANN of other widths or rates is not the spikes alone.",
        list_uncontrolled_agents,
    ),
    "Cells without numbers": (
        "If they fail because of their agent, those left flatter it.",
        list_cells_without_numbers,
    ),
    "Agents not compared": ("They have too few results in common with the baseline.", list_uncompared_agents),
    "No plan": ("Cells that never began are not known.", lambda a: a.plan_problem),
    "Interrupted trainings": (
        "They went on from a checkpoint, which is not the run that was not interrupted; seconds are those of its last part.",
        lambda a: join_names(r.cell for r in a.results if r.resumed),
    ),
    "Training not over": (
        f"The return rose by more than {100 * FLAT:g} % of what was learned in the last tenth of the iterations: with a larger budget"
        " the order may be another.",
        list_unconverged_agents,
    ),
    "Overrides": (
        "They hold for all agents, whomever they suit.",
        lambda a: join_names(a.design.overrides, 20),
    ),
    "Tuned as something else": (
        "The agent's own values or the physics are others than those of the tuning: its values may not be the best any more.",
        list_changed_tunings,
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
        lambda a: join_names(a.design.vary),
    ),
    "Unequal networks": (
        "A larger network may score higher for that.",
        make_spread_check(1.5, "parameters", lambda r: r.cost.parameters if r.cost else None),
    ),
    "Unequal experience": (
        "A longer training may, too.",
        make_spread_check(1.01, "environment steps", lambda r: r.training.env_steps if r.training else None),
    ),
    "Machines": (
        "Seconds are not comparable, and last digits may differ.",
        make_difference_check(lambda r: {"cells": r.machine}),
    ),
    "Devices": ("Numbers may differ by device.", make_difference_check(lambda r: {"cells": r.device})),
    "Robots": ("Scores are not comparable.", make_difference_check(lambda r: {"cells": r.assets})),
    "Physics": ("Scores are not comparable.", make_difference_check(lambda r: {r.task: r.physics})),
    "Environments": ("Numbers of them differ.", make_difference_check(lambda r: {r.task: str(r.num_envs)})),
    "Episodes": ("Numbers of them differ.", make_difference_check(lambda r: {r.task: str(r.episodes)})),
    "Conditions": (
        "Not all cells were evaluated under the same.",
        make_difference_check(lambda r: {name: condition.text for name, condition in r.conditions.items()}),
    ),
    "Versions": ("Cells ran with different ones.", make_difference_check(lambda r: r.versions, "absent")),
    "Commits": (
        "What is no kernel and no library was not the same for all cells; -dirty: nor is it in any commit.",
        make_difference_check(lambda r: {"cells": origin(r, "commit")}),
    ),
    "Kernels": (
        "Cells ran other programs: the same specification may give other numbers.",
        make_difference_check(lambda r: {"sources": origin(r, "kernels")}),
    ),
    "Threads": (
        "Sums of other orders: the same specification gives other numbers.",
        make_difference_check(lambda r: {"cells": origin(r, "threads")}),
    ),
    "Specifications": (
        "Not all seeds were trained with the same one.",
        make_difference_check(lambda r: {f"{r.label} on {r.task}": r.spec_hash}),
    ),
    "Look-alike robots": ("Scores compare with each other, not with published curves.", list_local_assets),
}
"""Threat -> what it means, and what tells how much of it there is; from the strongest on."""
