"""The analysis of a study's result files: everything that its report shows, as plain data.

Normalised scores are 0 for random actions and 1 for the baseline's mean; without both on every task scores stay raw, and nothing
is averaged over tasks.
"""

from __future__ import annotations

import math
import re
import statistics as plain
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.spec import read_yaml
from spiky_rl.config.tuned_values import TunedValuesFile
from spiky_rl.experiments.analysis import statistics
from spiky_rl.experiments.analysis.comparisons import PairedComparison, SeededScores, compare_agents
from spiky_rl.experiments.analysis.curves import compute_learning_curve, make_step_grid
from spiky_rl.experiments.analysis.measures import (
    AgentTaskRow,
    RobustnessScore,
    compute_plasticity_gain,
    compute_recovery,
    compute_robustness,
    compute_row,
    drop_seed_names,
)  # fmt: skip
from spiky_rl.experiments.analysis.statistics import Band, Interval
from spiky_rl.experiments.analysis.verdicts import Verdict, judge
from spiky_rl.experiments.design.controls import find_uncontrolled
from spiky_rl.experiments.design.planned import RETURN, Endpoint
from spiky_rl.experiments.design.seeds import SeedHistory, find_history
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.design.tunings import read_copies
from spiky_rl.experiments.run import results as files
from spiky_rl.experiments.run.arms import take_arms
from spiky_rl.experiments.run.results import CellResult, PlannedCell, SkippedCell

POINTS = 100
"""Points of a learning curve in a figure, at most."""
ALL = "all tasks"


@dataclass(frozen=True)
class MemoryDependence:
    """The score that an agent loses where the observation lacks velocities."""

    label: str
    task: str
    masked: str
    seeds: int
    drop: Interval
    """Drop of the score, paired by seed."""


@dataclass(frozen=True)
class StudyAnalysis:
    """A study's results."""

    design: Study
    results: tuple[CellResult, ...]
    skipped: tuple[SkippedCell, ...]
    planned: tuple[PlannedCell, ...]
    plan_problem: str
    """Why the plan could not be read, or nothing."""
    tuned: Mapping[str, TunedValuesFile]
    """The tuned values that agents have, by agent; without agents that have none, or whose copy of them is not there."""
    labels: tuple[str, ...]
    """Trained agents with their variants, in the study's order."""
    tasks: tuple[str, ...]
    """Those on which an agent was trained."""
    conditions: Mapping[str, str]
    """Name to description."""
    anns: tuple[str, ...]
    """Labels of agents that never spiked."""
    baseline: str | None
    random: Mapping[str, float]
    """Score of random actions by task."""
    reference: Mapping[str, float]
    """The baseline's mean score by task."""
    solved: Mapping[str, float]
    normalised: bool
    """Whether there is all that normalised scores need, on every task."""
    rows: Mapping[tuple[str, str], AgentTaskRow]
    scores: Mapping[str, SeededScores]
    """Scores of agents that have some on every task, by task and seed: normalised, or raw ones of a single task."""
    overall: Mapping[str, Interval]
    """Interquartile mean of those scores over all tasks."""
    curves: Mapping[tuple[str, str], Band]
    profiles: Mapping[str, Band]
    comparisons: Mapping[str, tuple[PairedComparison, ...]]
    """With the baseline: over all tasks under `ALL`, of normalised scores, then by task, of raw ones; empty where there are
    agents but no two pairs of seeds."""
    pairs: Mapping[str, tuple[PairedComparison, ...]]
    """All with all: over all tasks, or by task where scores have no common scale."""
    remaining: Mapping[tuple[str, str, str], RobustnessScore]
    """By label, task and condition."""
    recovery: Mapping[tuple[str, str, str], Interval]
    """By label, task and condition: see `measures.compute_recovery`."""
    adapting: Mapping[tuple[str, str, str], tuple[Interval, Interval, Interval]]
    """By label, task and condition: see `measures.compute_plasticity_gain`."""
    memory: tuple[MemoryDependence, ...]
    verdicts: tuple[Verdict, ...]
    """Verdicts of the plan; without a plan, those on the return against the baseline, which nobody planned."""
    uncontrolled: Mapping[str, Mapping[str, str]]
    """By task, spiking agents without an ANN of their widths and rates, each with its widths."""
    history: SeedHistory = field(default_factory=SeedHistory)
    """Earlier uses of the study's seeds."""
    arms: Mapping[str, str] = field(default_factory=dict)
    """The other study that a label's results are from, of those from one."""

    def get_energy_and_score(self, task: str, price: str) -> dict[str, tuple[float, Interval]]:
        """Energy of a control step in nJ under a ``price``, and score, of the agents on a ``task`` that have both, by label."""
        rows = {label: row for (label, other), row in self.rows.items() if other == task}
        return {
            label: (row.energy[price].step.estimate, row.mean)
            for label, row in rows.items()
            if price in row.energy
        }

    def get_pareto_front(self, task: str, price: str) -> tuple[str, ...]:
        """Agents on a ``task`` that no other one beats in score and in energy under a ``price``."""
        points = {
            label: (energy, score.estimate)
            for label, (energy, score) in self.get_energy_and_score(task, price).items()
        }

        def beaten(label: str) -> bool:
            energy, score = points[label]
            return any(e <= energy and s >= score and (e, s) != (energy, score) for e, s in points.values())

        return tuple(label for label in points if not beaten(label))


def analyze_study(folder: Path) -> StudyAnalysis:
    """The analysis of a study's ``folder``. Raises UserError where it holds no study, or tuned values that cannot be read."""
    design = files.read_design(folder)
    try:
        planned, problem = files.read_plan(folder), ""
    except files.ResultsError as error:
        planned, problem = (), str(error).replace(f"{folder}/", "")
    tuned = read_copies(folder, design.tuning, design.agent_names)
    specs = {path.stem: read_yaml(path) for path in sorted((folder / "specs").glob("*.yaml"))}
    results, skipped = files.read_results(folder)
    taken, left, sources = take_arms(folder, design, results)
    found = analyze_results(design, (*results, *taken), (*skipped, *left), planned, problem, tuned, specs)
    return replace(found, history=find_history(folder, design), arms=sources)


def analyze_results(
    design: Study,
    results: Sequence[CellResult],
    skipped: Sequence[SkippedCell],
    planned: Sequence[PlannedCell] = (),
    plan_problem: str = "",
    tuned: Mapping[str, TunedValuesFile] | None = None,
    specs: Mapping[str, PlainMapping] | None = None,
) -> StudyAnalysis:
    """The analysis of results in hand.

    Args:
        design: The study.
        results: Results of its cells.
        skipped: Cells that give no numbers.
        planned: Cells that there have to be.
        plan_problem: Why those are not known, or nothing.
        tuned: The tuned values that agents have, by agent; None if there are none.
        specs: Merged specifications of agents by their hash.
    """
    trained = [result for result in results if result.kind == "trained"]
    cells: dict[tuple[str, str], list[CellResult]] = {}
    for result in sorted(trained, key=lambda result: result.seed):
        cells.setdefault((result.label, result.task), []).append(result)
    tasks = _list_in_order([*planned, *results], "task", {result.task for result in trained})
    labels = _list_in_order([*planned, *results], "label", {result.label for result in trained})
    baseline = _baseline(Path(design.baseline).stem, labels)
    noise = [result for result in results if result.kind == "random"]
    random = {t: plain.fmean(r.score for r in noise if r.task == t) for t in _list_in_order(noise, "task")}
    reference = {
        task: plain.fmean(result.score for result in cells[baseline, task])
        for task in tasks
        if baseline is not None and (baseline, task) in cells
    }
    known = [task for task in tasks if task in random and reference.get(task, -math.inf) > random[task]]
    rows = {
        key: compute_row(runs, random, reference if key[1] in known else {}) for key, runs in cells.items()
    }
    normalised = bool(tasks) and known == list(tasks)
    scores: dict[str, dict[str, dict[int, float]]] = {}
    if normalised or len(tasks) == 1:
        for label in labels:
            if all((label, task) in rows for task in tasks):
                raw = {task: dict(rows[label, task].by_seed) for task in tasks}
                scores[label] = statistics.normalise(raw, random, reference) if normalised else raw
    families = {
        task: {label: {task: r.by_seed} for (label, t), r in rows.items() if t == task} for task in tasks
    }
    if len(tasks) > 1 and scores:
        families = {ALL: scores, **families}
    conditions = {name: c.text for result in results for name, c in result.conditions.items()}
    comparisons = {
        name: _choose_comparisons(family, baseline)
        for name, family in families.items()
        if baseline in family and len(family) > 1
    }
    return StudyAnalysis(
        design=design,
        results=tuple(results),
        skipped=tuple(skipped),
        planned=tuple(planned),
        plan_problem=plan_problem,
        tuned=tuned or {},
        labels=labels,
        tasks=tasks,
        conditions=conditions,
        anns=tuple(label for label in labels if not any(_spikes(r) for r in trained if r.label == label)),
        baseline=baseline,
        random=random,
        reference=reference,
        solved={result.task: result.solved for result in trained if result.solved is not None},
        normalised=normalised,
        rows=rows,
        scores=scores,
        overall={
            label: statistics.aggregate_interval(drop_seed_names(seeds)) for label, seeds in scores.items()
        },
        curves={key: band for key, runs in cells.items() if (band := _curve(runs)) is not None},
        profiles=_compute_profiles(scores),
        comparisons=comparisons,
        pairs={
            name: _choose_comparisons(families[name]) for name in ([ALL] if ALL in families else families)
        },
        remaining={
            (*key, name): rest
            for key, runs in cells.items()
            for name in conditions
            if name != "nominal"
            and (rest := compute_robustness(runs, name, reference.get(key[1]))) is not None
        },
        recovery={
            (*key, name): share
            for key, runs in cells.items()
            for name in conditions
            if (share := compute_recovery(runs, name)) is not None
        },
        adapting={
            (*key, name): pair
            for key, runs in cells.items()
            for name in conditions
            if (pair := compute_plasticity_gain(runs, name)) is not None
        },
        memory=tuple(_compute_memory_dependence(rows, labels, tasks)),
        verdicts=_verdicts(design, cells, reference, comparisons, tasks),
        uncontrolled={task: _list_uncontrolled(planned, task, specs or {}, tuned or {}) for task in tasks},
    )


def _list_uncontrolled(
    planned: Sequence[PlannedCell],
    task: str,
    specs: Mapping[str, PlainMapping],
    tuned: Mapping[str, TunedValuesFile],
) -> Mapping[str, str]:
    own = {cell.label: cell for cell in planned if cell.task == task and cell.is_trained}
    known = {label: specs[str(cell.spec_hash)] for label, cell in own.items() if cell.spec_hash in specs}
    changed = [agent for agent, values in tuned.items() if agent in values.tasks.get(task, {})]
    return find_uncontrolled(known, [label for label, cell in own.items() if cell.agent in changed])


def _verdicts(
    design: Study,
    cells: Mapping[tuple[str, str], Sequence[CellResult]],
    reference: Mapping[str, float],
    comparisons: Mapping[str, tuple[PairedComparison, ...]],
    tasks: Sequence[str],
) -> tuple[Verdict, ...]:
    if design.plan is not None:
        first = min((result.date for runs in cells.values() for result in runs), default="")
        return judge(design.plan, cells, tasks, reference, is_planned=design.plan.date <= first)
    endpoint = Endpoint(measure=RETURN)
    return tuple(
        Verdict(
            endpoint, name, comparison, 1.0 if name == ALL else reference.get(name, math.nan),
            margin=0.0, equivalence=1.0, seeds_to_equate=None, is_planned=False,
        )
        for name in ([ALL] if ALL in comparisons else comparisons)
        for comparison in comparisons[name]
    )  # fmt: skip


def _list_in_order(
    items: Iterable[PlannedCell | CellResult], name: Literal["task", "label"], among: set[str] | None = None
) -> tuple[str, ...]:
    """Values of an attribute in the order in which they first occur."""
    values = dict.fromkeys(item.task if name == "task" else item.label for item in items)
    return tuple(value for value in values if among is None or value in among)


def _baseline(agent: str, labels: Sequence[str]) -> str | None:
    """The baseline's label; of its variants the first."""
    return next(
        (label for label in labels if label == agent),
        next((label for label in labels if label.split(" ")[0] == agent), None),
    )


def _spikes(result: CellResult) -> bool:
    rates = [result.conditions["nominal"].firing_rate, *(result.curve.firing_rate if result.curve else ())]
    return any(rates)


def _choose_comparisons(
    family: Mapping[str, SeededScores], baseline: str | None = None
) -> tuple[PairedComparison, ...]:
    """With the baseline, or all with all; agents that share a single pair with another, too few for a test, stand back."""
    testable: list[str] = []
    for label in sorted(family, key=lambda label: label != baseline):
        others = testable if baseline is None else testable[:1]
        if not any(_shared_runs(family[label], family[other]) == 1 for other in others):
            testable.append(label)
    scores = {label: family[label] for label in family if label in testable}
    return tuple(compare_agents(scores, baseline)) if len(scores) > 1 else ()


def _shared_runs(first: SeededScores, second: SeededScores) -> int:
    """Pairs of task and seed that both have."""
    return sum(len(first[task].keys() & second[task].keys()) for task in first.keys() & second.keys())


def _compute_profiles(scores: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, Band]:
    values = [v for tasks in scores.values() for seeds in tasks.values() for v in seeds.values()]
    if not values:
        return {}
    spare = 0.03 * (max(values) - min(values)) or 0.5
    at = np.linspace(min(values) - spare, max(values) + spare, POINTS + 1).tolist()
    return {
        label: statistics.performance_profile(drop_seed_names(tasks), at, agent=label)
        for label, tasks in scores.items()
    }


def _curve(results: Sequence[CellResult]) -> Band | None:
    """None where a run has no return at all."""
    curves = [result.curve for result in results if result.curve is not None]
    if not all(any(value is not None for value in curve.returns) for curve in curves):
        return None
    runs = {results[0].task: [(curve.env_steps, curve.returns) for curve in curves]}
    points = min(POINTS, max(len(curve.returns) for curve in curves))
    steps = make_step_grid(runs, points, agent=results[0].label)
    return compute_learning_curve(runs, steps, agent=results[0].label)


def _compute_memory_dependence(
    rows: Mapping[tuple[str, str], AgentTaskRow], labels: Sequence[str], tasks: Sequence[str]
) -> Iterable[MemoryDependence]:
    """What hidden or late observations cost each task with such a twin: `X` with `X_masked` or `X_delayed`, as Isaac-Cartpole with cartpole_masked."""

    def stem(task: str) -> str:
        return re.sub(r"^isaac_|_v\d+$", "", task.lower().replace("-", "_"))

    twins = [(a, b) for a in tasks for b in tasks if stem(b) in (f"{stem(a)}_masked", f"{stem(a)}_delayed")]
    for task, masked in twins:
        for label in labels:
            whole, part = rows.get((label, task)), rows.get((label, masked))
            seeds = sorted(set(whole.by_seed) & set(part.by_seed)) if whole and part else []
            if whole and part and seeds:
                drops = [whole.by_seed[seed] - part.by_seed[seed] for seed in seeds]
                drop = statistics.aggregate_interval({task: drops}, statistics.mean, agent=label)
                yield MemoryDependence(label, task, masked, len(seeds), drop)
