"""Section of a report on threats to validity: a table of the threats for which the results show evidence, with their consequences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from spiky_rl.config.progress import format_count
from spiky_rl.config.tuned_values import find_shortfall
from spiky_rl.experiments.analysis.measures import AgentTaskRow
from spiky_rl.experiments.analysis.outcome import ALL, StudyAnalysis
from spiky_rl.experiments.design.planned import ALPHA, RETURN
from spiky_rl.experiments.design.seeds import format_seeds
from spiky_rl.experiments.design.tunings import find_tuning
from spiky_rl.experiments.report.blocks import (
    Block,
    Column,
    format_fixed,
    format_p_value,
    join_names,
    make_paragraph,
    make_table,
)
from spiky_rl.experiments.run.records import CellResult

type Check = Callable[[StudyAnalysis], str]
"""Function that returns the evidence for a threat as text; empty if there is none."""
MAX_FINAL_RISE = 0.02
"""Largest rise in the last tenth of a converged curve, as a share of the difference between the score and random actions."""
SCORES_TESTED = (
    "Only scores are tested; p-values are corrected for the comparisons of one table, not for the number of tables. Steps, times,"
    " operations, energy and robustness have intervals but no test."
)
ENDPOINTS_TESTED = (
    "Only scores and the plan's endpoints are tested; p-values are corrected for the plan or for the comparisons of one table, not for the"
    " number of tables. Other numbers have intervals but no test."
)
LIMITATIONS = (
    " Intervals hold for these tasks, not for others; those of normalised scores ignore the uncertainty of random actions' score and"
    " of the baseline's mean. Agents are compared with their present values, not neurons or learning rules as such; the effort of"
    " tuning is equal only for agents of a tuning named above. Wall time is that of cells as they ran, several in parallel if their"
    " machine says so."
)


def build_reuse_notes(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield notes for the first screen: on seeds that were used for choosing, and on agents with results from other studies."""
    if reuses := [reuse.text for reuse in analysis.history.biased]:
        why = f" Why: {analysis.design.reused_seeds}." if analysis.design.reused_seeds else ""
        yield make_paragraph(f"Seeds were used before for tuning or choosing: {'; '.join(reuses)}.{why}")
    if analysis.arms:
        arms = ", ".join(f"{label} of {study}" for label, study in analysis.arms.items())
        yield make_paragraph(f"From other studies: {arms}.")


def build_threats_section(analysis: StudyAnalysis) -> Iterable[Block]:
    """Yield the table of threats, the strongest first; threats without evidence have no row."""
    evidence = {name: check(analysis) for name, (_, check) in THREATS.items()}
    names = [name for name, text in evidence.items() if text]
    yield make_table(
        "Threats to this answer",
        names,
        Column("evidence", [evidence[name] for name in names], is_text=True),
        Column("consequence", [THREATS[name][0] for name in names], is_text=True),
        first="threat",
    )
    endpoints = analysis.design.plan.endpoints if analysis.design.plan else ()
    has_others = any(endpoint.measure != RETURN for endpoint in endpoints)
    yield make_paragraph((ENDPOINTS_TESTED if has_others else SCORES_TESTED) + LIMITATIONS)


def format_by_task(texts: Mapping[str, str]) -> str:
    """Return ``task: text; task: text`` of the ``texts`` that are not empty."""
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def describe_seeds(analysis: StudyAnalysis) -> str:
    """Return the number of seeds of an agent."""
    sizes = sorted({len(row.by_seed) for row in analysis.rows.values()})
    if not sizes:
        return ""
    text = f"{format_count(sizes[-1], 'seed')} of each agent per task"
    return text if len(sizes) == 1 else f"{sizes[0]} to {text}"


def list_underpowered_tests(analysis: StudyAnalysis) -> str:
    """Return the families of tests in which no p-value can come below alpha, each with its lowest possible p-value."""
    families = analysis.comparisons.items()
    lowest = {name: min(c.min_p_value for c in family) for name, family in families if family}
    return format_by_task({name: f"p ≥ {format_p_value(p)}" for name, p in lowest.items() if p >= ALPHA})


def list_cells_without_numbers(analysis: StudyAnalysis) -> str:
    """Return the cells without numbers by status."""
    names: dict[str, list[str]] = {}
    for cell in analysis.skipped:
        names.setdefault(cell.status, []).append(cell.cell)
    return format_by_task({status: join_names(cells) for status, cells in names.items()})


def list_uncompared_agents(analysis: StudyAnalysis) -> str:
    """Return the agents without a comparison, by task."""
    texts = {}
    for name, family in analysis.comparisons.items():
        compared = {analysis.baseline, *(comparison.agent for comparison in family)}
        labels = [label for label in analysis.labels if name == ALL or (label, name) in analysis.rows]
        texts[name] = join_names(label for label in labels if label not in compared)
    return format_by_task(texts)


def list_unconverged_agents(analysis: StudyAnalysis) -> str:
    """Return the agents that had not converged at the end of training."""

    def still_rises(row: AgentTaskRow) -> bool:
        learned = abs(row.mean.estimate - analysis.random.get(row.task, 0.0))
        return row.final_slope is not None and row.final_slope.estimate > MAX_FINAL_RISE * learned

    return join_names((f"{row.label} on {row.task}" for row in analysis.rows.values() if still_rises(row)), 8)


def make_spread_check(tolerated: float, unit: str, value: Callable[[CellResult], float | None]) -> Check:
    """Return a check that names the agents with the smallest and the largest mean ``value`` on each task.

    A ratio of the two up to ``tolerated`` is no threat.
    """

    def check(analysis: StudyAnalysis) -> str:
        texts = {}
        for task in analysis.tasks:
            numbers: dict[str, list[float]] = {}
            for result in analysis.results:
                if result.task == task and (number := value(result)) is not None:
                    numbers.setdefault(result.label, []).append(number)
            means = {label: fmean(of_seeds) for label, of_seeds in numbers.items()}
            if not means:
                continue
            lowest, highest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            if means[highest] > tolerated * means[lowest]:
                texts[task] = " to ".join(
                    f"{format_fixed(means[label], 0)} {unit} ({label})" for label in (lowest, highest)
                )
        return format_by_task(texts)

    return check


def make_difference_check(
    values: Callable[[CellResult], Mapping[str, str | None]], absent: str | None = None
) -> Check:
    """Return a check that lists the ``values`` in which cells differ, by name.

    ``absent`` is the text for a value that a cell lacks; None ignores such cells.
    """

    def check(analysis: StudyAnalysis) -> str:
        of_cells = [values(result) for result in analysis.results]
        texts = {}
        for name in dict.fromkeys(name for of_cell in of_cells for name in of_cell):
            found = [of_cell.get(name, absent) for of_cell in of_cells]
            different = {str(value) for value in found if value is not None}
            if len(different) > 1:
                texts[name] = " / ".join(sorted(different))
        return format_by_task(texts)

    return check


def list_changed_tunings(analysis: StudyAnalysis) -> str:
    """Return the agents with another specification or physics than in their tuning."""
    texts = {}
    for cell in analysis.planned:
        values = analysis.tuned.get(cell.agent)
        tuned = values and values.tasks.get(cell.task, {}).get(cell.agent)
        if tuned is None:
            continue
        pairs = {
            "specification": (cell.base_hash, tuned.specification),
            "physics": (cell.physics, tuned.physics),
        }
        texts[f"{cell.agent} on {cell.task}"] = ", ".join(
            f"{name} {now}, tuned with {before}"
            for name, (now, before) in pairs.items()
            if None not in (now, before) and now != before
        )
    return format_by_task(texts)


def describe_late_plan(analysis: StudyAnalysis) -> str:
    """Return why comparisons are unplanned: no plan, a plan after a first result, or seeds and tasks added since; empty if all are planned."""
    plan = analysis.design.plan
    if plan is None:
        return "no comparison was planned"
    late = [] if analysis.is_planned else [f"the plan of {plan.date} came after a first result"]
    return "; ".join([*late, *list_additions(analysis)])


def list_additions(analysis: StudyAnalysis) -> list[str]:
    """Return the seeds and tasks that a study has beyond those of its plan, as texts; none without a plan."""
    plan, texts = analysis.design.plan, list[str]()
    if plan is None:
        return texts
    later_seeds = sorted({result.seed for result in analysis.trained} - {*plan.seeds})
    if later_seeds:
        texts.append(f"seeds added since: {join_names(map(str, later_seeds))}")
    later_tasks = [task for task in analysis.design.tasks if plan.tasks and task not in plan.tasks]
    if later_tasks:
        texts.append(f"tasks added since: {join_names(later_tasks)}")
    return texts


def list_uncontrolled_agents(analysis: StudyAnalysis) -> str:
    """Return the spiking agents without an equal-size ANN."""
    return format_by_task(
        {
            task: join_names(
                f"{label} ({widths})" for label, widths in analysis.uncontrolled.get(task, {}).items()
            )
            for task in analysis.tasks
        }
    )


def find_small_tunings(analysis: StudyAnalysis) -> str:
    """Return the tunings with too few trials or seeds."""
    return format_by_task(
        {
            find_tuning(analysis.design.tuning, agent): find_shortfall(tuned.trials, len(tuned.seeds))
            for agent, tuned in analysis.tuned.items()
        }
    )


def find_unequal_tunings(analysis: StudyAnalysis) -> str:
    """Return the agents by tuning; empty if all agents have the same tuning."""
    by_tuning: dict[str, list[str]] = {}
    for agent in analysis.design.agent_names:
        by_tuning.setdefault(find_tuning(analysis.design.tuning, agent), []).append(agent)
    if len(by_tuning) <= 1:
        return ""
    return format_by_task(
        {tuning or "none": join_names(agents, len(agents)) for tuning, agents in by_tuning.items()}
    )


def list_local_assets(analysis: StudyAnalysis) -> str:
    """Return the robots that are not Isaac Lab's own."""
    robots = sorted({result.assets for result in analysis.results})
    return "; ".join(name for name in robots if "look-alike" in name or "derived" in name)


def format_provenance(result: CellResult, key: str) -> str:
    """Return the value of a ``key`` in the provenance of a ``result`` as text."""
    if result.provenance is None:
        return "not recorded"
    return str(getattr(result.provenance, key) or "none")


THREATS: Mapping[str, tuple[str, Check]] = {
    "Seeds": (
        "Fewer than 10 give wide intervals and weak tests; one says nothing about others.",
        describe_seeds,
    ),
    "Seeds used for choosing": (
        "A value that was chosen by its return on a seed returns more there than on others.",
        lambda a: "; ".join([*(r.text for r in a.history.biased), *filter(None, [a.design.reused_seeds])]),
    ),
    "Seeds tested before": (
        "Studies with common seeds are not independent evidence.",
        lambda a: "; ".join(
            f"{format_seeds(r.seeds)} of {r.task}: {r.before.study}" for r in a.history.tested
        ),
    ),
    "Arms from other studies": (
        "They ran at another time, and their seeds were tested there.",
        lambda a: format_by_task(a.arms),
    ),
    "Tests that cannot decide": ("An undecided verdict says nothing there.", list_underpowered_tests),
    "Unplanned comparisons": (
        "A comparison that is chosen after seeing results finds something by chance more often than its p-value says.",
        describe_late_plan,
    ),
    "No ANN of equal size": (
        "The difference to an ANN of other widths or rates is not due to spikes alone.",
        list_uncontrolled_agents,
    ),
    "Cells without numbers": (
        "If they failed because of their agent, the others overstate it.",
        list_cells_without_numbers,
    ),
    "Agents not compared": ("They have too few results in common with the baseline.", list_uncompared_agents),
    "No plan": ("Cells that never began are unknown.", lambda a: a.plan_problem),
    "Resumed trainings": (
        "A training resumed from a checkpoint differs from an uninterrupted one; its seconds leave out the work that it lost.",
        lambda a: join_names(r.cell for r in a.results if r.resumed),
    ),
    "Unconverged training": (
        f"The return rose by more than {100 * MAX_FINAL_RISE:g} % of what was learned in the last tenth of the iterations: a larger budget may"
        " change the order.",
        list_unconverged_agents,
    ),
    "Overrides": (
        "They hold for all agents, but may suit some better.",
        lambda a: join_names(a.design.overrides, 20),
    ),
    "Tuned as something else": (
        "The agent or the physics has changed since the tuning: its values may no longer be the best.",
        list_changed_tunings,
    ),
    "Small tunings": (
        "The choice of so few trials is chance as much as merit, and may be worse than the agent's file.",
        find_small_tunings,
    ),
    "Unequal tunings": (
        "An agent's advantage may be its tuning: only agents of the same tuning were tuned with equal effort.",
        find_unequal_tunings,
    ),
    "Variants": (
        "Choosing the best variant of an agent by these scores tunes it on the test.",
        lambda a: join_names(a.design.vary),
    ),
    "Unequal networks": (
        "A larger network may score higher because of its size.",
        make_spread_check(1.5, "parameters", lambda r: r.cost.parameters if r.cost else None),
    ),
    "Unequal experience": (
        "A longer training may score higher because of its length.",
        make_spread_check(1.01, "environment steps", lambda r: r.training.env_steps if r.training else None),
    ),
    "Teachers": (
        "The experience of a teacher is not counted as that of its students.",
        lambda a: format_by_task(a.design.teachers),
    ),
    "Machines": (
        "Seconds are not comparable, and last digits may differ.",
        make_difference_check(lambda r: {"cells": r.machine}),
    ),
    "Devices": ("Numbers may differ by device.", make_difference_check(lambda r: {"cells": r.device})),
    "Robots": ("Scores are not comparable.", make_difference_check(lambda r: {"cells": r.assets})),
    "Physics": ("Scores are not comparable.", make_difference_check(lambda r: {r.task: r.physics})),
    "Environments": ("Their numbers differ.", make_difference_check(lambda r: {r.task: str(r.num_envs)})),
    "Episodes": ("Their numbers differ.", make_difference_check(lambda r: {r.task: str(r.episodes)})),
    "Conditions": (
        "Not all cells were evaluated under the same conditions.",
        make_difference_check(lambda r: {name: condition.text for name, condition in r.conditions.items()}),
    ),
    "Versions": (
        "Cells ran with different versions.",
        make_difference_check(lambda r: r.versions, "absent"),
    ),
    "Commits": (
        "Code other than kernels and libraries was not the same for all cells; -dirty: it is not in any commit either.",
        make_difference_check(lambda r: {"cells": format_provenance(r, "commit")}),
    ),
    "Kernels": (
        "Cells ran different kernels: the same specification may give other numbers.",
        make_difference_check(lambda r: {"sources": format_provenance(r, "kernels")}),
    ),
    "Compilers": (
        "Last digits may differ.",
        make_difference_check(lambda r: {"cells": format_provenance(r, "compiler")}),
    ),
    "Threads": (
        "Sums were computed in different orders: the same specification gives other numbers.",
        make_difference_check(lambda r: {"cells": format_provenance(r, "threads")}),
    ),
    "Specifications": (
        "Not all seeds were trained with the same specification.",
        make_difference_check(lambda r: {f"{r.label} on {r.task}": r.spec_hash}),
    ),
    "Look-alike robots": ("Scores compare with each other, not with published curves.", list_local_assets),
}
"""Threats, the strongest first: name to (consequence, check)."""
