"""Analysis of a study's result files: all numbers of its report, each computed once.

Normalised scores are 0 for random actions and 1 for the baseline's mean. If random actions or the baseline are missing on a task, scores
stay raw and are not averaged over tasks.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from spiky_rl.config.tuned_values import TunedValuesFile
from spiky_rl.experiments.analysis import statistics
from spiky_rl.experiments.analysis.comparisons import PairedComparison, SeededScores, compare_agents
from spiky_rl.experiments.analysis.measures import (
    MAX_POINTS,
    AgentTaskRow,
    RobustnessScore,
    compute_learning_curve,
    compute_plasticity_gain,
    compute_recovery,
    compute_robustness,
    compute_row,
    has_spikes,
)  # fmt: skip
from spiky_rl.experiments.analysis.statistics import Band, Interval
from spiky_rl.experiments.analysis.verdicts import Cells, Verdict, judge
from spiky_rl.experiments.design.grid import PlannedCell
from spiky_rl.experiments.design.planned import RETURN, Endpoint
from spiky_rl.experiments.design.seeds import SeedHistory, find_history
from spiky_rl.experiments.design.study import Study
from spiky_rl.experiments.design.tunings import get_agent_name, read_copies
from spiky_rl.experiments.run import results as files
from spiky_rl.experiments.run.arms import find_uncontrolled_agents, read_specs, take_arms
from spiky_rl.experiments.run.records import CellResult
from spiky_rl.experiments.run.results import SkippedCell

ALL = "all tasks"
"""Name of the comparisons over all tasks, beside those of each task."""


@dataclass(frozen=True)
class MemoryDependence:
    """Drop of an agent's score from a task to its twin with hidden or delayed observations."""

    label: str
    task: str
    masked: str
    """The twin."""
    seeds: int
    drop: Interval
    """Mean drop of the score, paired by seed."""


@dataclass(frozen=True)
class StudyAnalysis:
    """A study's results, and statistics on them that are computed when they are first read."""

    design: Study
    results: tuple[CellResult, ...]
    skipped: tuple[SkippedCell, ...] = ()
    planned: tuple[PlannedCell, ...] = ()
    plan_problem: str = ""
    """Why the plan cannot be read; empty if it can."""
    tuned: Mapping[str, TunedValuesFile] = field(default_factory=dict)
    """Tuned values by agent; agents without tuned values are absent."""
    uncontrolled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By task: the widths of each spiking agent without an ANN of the same widths and learning rates."""
    history: SeedHistory = field(default_factory=SeedHistory)
    """Earlier uses of the study's seeds."""
    arms: Mapping[str, str] = field(default_factory=dict)
    """Source study by label, for results of other studies."""

    @cached_property
    def trained(self) -> tuple[CellResult, ...]:
        """Results of cells that trained an agent."""
        return tuple(result for result in self.results if result.kind == "trained")

    @cached_property
    def cells(self) -> Cells:
        """Results of trained agents by label and task, in the order of their seeds."""
        cells: dict[tuple[str, str], list[CellResult]] = {}
        for result in sorted(self.trained, key=lambda result: result.seed):
            cells.setdefault((result.label, result.task), []).append(result)
        return cells

    @cached_property
    def agents(self) -> Mapping[str, str]:
        """File stems of the agents by label, of all variants that are planned or have a result."""
        return {item.label: item.agent for item in (*self.planned, *self.results)}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Trained agents with their variants, in the order of the plan."""
        in_order = (item.label for item in (*self.planned, *self.results))
        return keep_known(in_order, {label for label, _ in self.cells})

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of trained agents, in the order of the plan."""
        return keep_known(self.planned_tasks, {task for _, task in self.cells})

    @cached_property
    def planned_tasks(self) -> tuple[str, ...]:
        """All tasks of the plan, with a result or without."""
        return tuple(dict.fromkeys(item.task for item in (*self.planned, *self.results)))

    @cached_property
    def conditions(self) -> Mapping[str, str]:
        """Descriptions of the conditions by name."""
        return {name: c.text for result in self.results for name, c in result.conditions.items()}

    @cached_property
    def solved(self) -> Mapping[str, float]:
        """Return from which a task counts as solved, by task, in the order of the plan."""
        solved = {result.task: result.solved for result in self.trained if result.solved is not None}
        return {task: solved[task] for task in self.tasks if task in solved}

    @cached_property
    def anns(self) -> tuple[str, ...]:
        """Labels of agents without activity to count: their firing rate is 0 or unknown."""
        spiking = {result.label for result in self.trained if has_spikes(result)}
        return tuple(label for label in self.labels if label not in spiking)

    @cached_property
    def baseline(self) -> str | None:
        """Label of the baseline, its first variant if it has several; None if it has no result."""
        stem = get_agent_name(self.design.baseline)
        variants = [label for label in self.labels if self.agents[label] == stem]
        return stem if stem in variants else next(iter(variants), None)

    @cached_property
    def random(self) -> Mapping[str, float]:
        """Score of random actions by task."""
        return _average_by_task(result for result in self.results if result.kind == "random")

    @cached_property
    def reference(self) -> Mapping[str, float]:
        """The baseline's mean score by task."""
        return _average_by_task(result for result in self.trained if result.label == self.baseline)

    @cached_property
    def normalisable(self) -> frozenset[str]:
        """Tasks on which the baseline scores above random actions."""
        return frozenset(
            task
            for task in self.tasks
            if task in self.random and self.reference.get(task, -math.inf) > self.random[task]
        )

    @property
    def is_normalised(self) -> bool:
        """Whether scores can be normalised on every task."""
        return bool(self.tasks) and self.normalisable == set(self.tasks)

    @cached_property
    def rows(self) -> Mapping[tuple[str, str], AgentTaskRow]:
        """Statistics of the runs by label and task."""
        return {
            (label, task): compute_row(
                runs, self.random, self.reference, task in self.normalisable, self.solved.get(task)
            )
            for (label, task), runs in self.cells.items()
        }

    @cached_property
    def scores(self) -> Mapping[str, SeededScores]:
        """Scores of agents with results on every task, by task and seed: normalised, or raw for a single task.

        Empty if agents have results on several tasks and a planned task has none: a mean over all tasks is then unknown.
        """
        if len(self.tasks) > 1 and self.tasks != self.planned_tasks:
            return {}
        raw: dict[str, SeededScores] = {
            label: {task: self.rows[label, task].by_seed for task in self.tasks}
            for label in self.labels
            if all((label, task) in self.rows for task in self.tasks)
        }
        if self.is_normalised:
            normalise = statistics.normalise
            return {label: normalise(by_task, self.random, self.reference) for label, by_task in raw.items()}
        return {} if len(self.tasks) > 1 else raw  # raw scores of several tasks have no common scale

    @cached_property
    def overall(self) -> Mapping[str, Interval]:
        """Interquartile mean of `scores` over all tasks."""
        return {
            label: statistics.aggregate_interval(statistics.drop_seed_names(by_task))
            for label, by_task in self.scores.items()
        }

    @cached_property
    def curves(self) -> Mapping[tuple[str, str], Band]:
        """Learning curves over seeds by label and task, of agents with a return in each run."""
        curves = {
            key: compute_learning_curve([run.curve for run in runs if run.curve is not None])
            for key, runs in self.cells.items()
        }
        return {key: curve for key, curve in curves.items() if curve is not None}

    @cached_property
    def profiles(self) -> Mapping[str, Band]:
        """Performance profile of each agent's `scores`."""
        values = [v for tasks in self.scores.values() for seeds in tasks.values() for v in seeds.values()]
        if not values:
            return {}
        spare = 0.03 * (max(values) - min(values)) or 0.5
        at = np.linspace(min(values) - spare, max(values) + spare, MAX_POINTS + 1).tolist()
        return {
            label: statistics.performance_profile(statistics.drop_seed_names(tasks), at, agent=label)
            for label, tasks in self.scores.items()
        }

    @cached_property
    def families(self) -> Mapping[str, Mapping[str, SeededScores]]:
        """Scores by agent for each family of comparisons: under `ALL` if tasks have a common scale, then under each task."""
        families = {ALL: self.scores} if len(self.tasks) > 1 and self.scores else {}
        for task in self.tasks:
            families[task] = {
                row.label: {task: row.by_seed} for row in self.rows.values() if row.task == task
            }
        return families

    @cached_property
    def comparisons(self) -> Mapping[str, tuple[PairedComparison, ...]]:
        """Comparisons with the baseline in each of the `families` that has the baseline and another agent.

        An entry is empty if no agent shares two seeds with the baseline.
        """
        return {
            name: _choose_comparisons(family, self.baseline)
            for name, family in self.families.items()
            if self.baseline in family and len(family) > 1
        }

    @cached_property
    def pairs(self) -> Mapping[str, tuple[PairedComparison, ...]]:
        """Comparisons of all pairs of agents: over all tasks, or by task if scores have no common scale."""
        names = [ALL] if ALL in self.families else list(self.families)
        return {name: _choose_comparisons(self.families[name]) for name in names}

    @cached_property
    def remaining(self) -> Mapping[tuple[str, str, str], RobustnessScore]:
        """Score that remains under a condition, by label, task and condition."""

        def measure(runs: Sequence[CellResult], condition: str) -> RobustnessScore | None:
            return compute_robustness(runs, condition, self.reference.get(runs[0].task))

        return _measure_conditions(self.cells, self.conditions, measure)

    @cached_property
    def recovery(self) -> Mapping[tuple[str, str, str], Interval]:
        """By label, task and condition: see `measures.compute_recovery`."""
        return _measure_conditions(self.cells, self.conditions, compute_recovery)

    @cached_property
    def adapting(self) -> Mapping[tuple[str, str, str], tuple[Interval, Interval, Interval]]:
        """By label, task and condition: see `measures.compute_plasticity_gain`."""
        return _measure_conditions(self.cells, self.conditions, compute_plasticity_gain)

    @cached_property
    def memory(self) -> tuple[MemoryDependence, ...]:
        """Drop of each agent's score from a task to its twin, as from cartpole to cartpole_masked or cartpole_delayed."""
        pairs = [
            (self.rows[label, task], self.rows[label, twin])
            for task, twin in itertools.permutations(self.tasks, 2)
            if get_stem(twin) in (f"{get_stem(task)}_masked", f"{get_stem(task)}_delayed")
            for label in self.labels
            if {(label, task), (label, twin)} <= self.rows.keys()
        ]
        drops = itertools.starmap(_compute_memory_dependence, pairs)
        return tuple(drop for drop in drops if drop is not None)

    @cached_property
    def is_planned(self) -> bool:
        """Whether there is a plan that is not later than any result.

        Dates are days. No own cell can begin before the plan of its day, but results of other studies may be known before the plan.
        """
        plan = self.design.plan
        return plan is not None and all(
            plan.date < result.date or (plan.date == result.date and result.label not in self.arms)
            for result in self.trained
        )

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Verdicts of the plan; without a plan, unplanned ones on the return against the baseline.

        Tasks without results count: otherwise Holm would correct fewer tests, and a verdict could change as the study goes on.
        """
        if (plan := self.design.plan) is not None:
            return judge(plan, self.cells, self.planned_tasks, self.reference, is_planned=self.is_planned)
        endpoint = Endpoint(measure=RETURN)
        return tuple(
            Verdict(
                endpoint, name, comparison, 1.0 if name == ALL else self.reference.get(name, math.nan),
                margin=0.0, equivalence=1.0, seeds_to_equate=None, is_planned=False,
            )
            for name in ([ALL] if ALL in self.comparisons else self.comparisons)
            for comparison in self.comparisons[name]
        )  # fmt: skip

    def get_task_rows(self, task: str, labels: Iterable[str] | None = None) -> list[AgentTaskRow]:
        """Return the rows on a ``task``, of all agents in the study's order, or of the given ``labels`` in theirs."""
        shown = self.labels if labels is None else labels
        return [self.rows[label, task] for label in shown if (label, task) in self.rows]

    def get_energy_and_score(self, task: str, model: str) -> dict[str, tuple[float, Interval]]:
        """Return (energy of a control step in nJ under an energy ``model``, score) on a ``task`` by label, of agents that have both."""
        rows = [row for row in self.get_task_rows(task) if model in row.energy]
        return {row.label: (row.energy[model].estimate, row.mean) for row in rows}

    def get_pareto_front(self, task: str, model: str) -> tuple[str, ...]:
        """Return the agents on a ``task`` that no other agent beats in both score and energy under an energy ``model``."""
        energies_and_scores = self.get_energy_and_score(task, model)
        points = {label: (energy, score.estimate) for label, (energy, score) in energies_and_scores.items()}

        def beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
            return other != own and other[0] <= own[0] and other[1] >= own[1]

        return tuple(
            label for label, own in points.items() if not any(beats(other, own) for other in points.values())
        )


def analyze_study(folder: Path) -> StudyAnalysis:
    """Return the analysis of a study's ``folder``. Raises UserError if it has no study or unreadable tuned values."""
    design = files.read_design(folder)
    try:
        planned, problem = files.read_plan(folder), ""
    except files.ResultsError as error:
        planned, problem = (), str(error).replace(f"{folder}/", "")
    tuned = read_copies(folder, design.tuning, design.agent_names)
    specs = read_specs(folder)
    results, skipped = files.read_results(folder, design.anns)
    tasks = list(dict.fromkeys(item.task for item in (*planned, *results)))
    arms, skipped_arms = take_arms(folder, design, tasks, results)
    return StudyAnalysis(
        design,
        results=(*results, *(arm.result for arm in arms)),
        skipped=(*skipped, *skipped_arms),
        planned=tuple(planned),
        plan_problem=problem,
        tuned=tuned,
        uncontrolled=find_uncontrolled_agents(design, planned, specs, arms),
        history=find_history(folder, design, tasks),
        arms={arm.result.label: arm.arm.study for arm in arms},
    )


def _average_by_task(results: Iterable[CellResult]) -> dict[str, float]:
    """Return the mean score of the ``results`` by task."""
    scores: dict[str, list[float]] = {}
    for result in results:
        scores.setdefault(result.task, []).append(result.score)
    return {task: fmean(task_scores) for task, task_scores in scores.items()}


def _measure_conditions[T](
    cells: Cells, conditions: Collection[str], measure: Callable[[Sequence[CellResult], str], T | None]
) -> dict[tuple[str, str, str], T]:
    """Return the values of ``measure`` by label, task and condition, without values of None."""
    values = {(*key, name): measure(runs, name) for key, runs in cells.items() for name in conditions}
    return {key: value for key, value in values.items() if value is not None}


def keep_known(names: Iterable[str], allowed: Collection[str]) -> tuple[str, ...]:
    """Return the ``names`` among the ``allowed`` ones, each once."""
    return tuple(name for name in dict.fromkeys(names) if name in allowed)


def sort_by_estimate(labels: Iterable[str], intervals: Mapping[str, Interval]) -> list[str]:
    """Return the ``labels`` from the highest estimate in ``intervals`` to the lowest, then those without one."""
    return sorted(labels, key=lambda label: -intervals[label].estimate if label in intervals else math.inf)


def _choose_comparisons(
    family: Mapping[str, SeededScores], baseline: str | None = None
) -> tuple[PairedComparison, ...]:
    """Return the comparisons with the ``baseline``, or of all pairs if it is None.

    An agent that shares exactly one run with an agent that it would be compared with is left out: one run is too few for a test.
    """
    testable: list[str] = []
    for label in sorted(family, key=lambda label: label != baseline):
        others = testable if baseline is None else testable[:1]  # the baseline comes first
        if not any(_count_shared_runs(family[label], family[other]) == 1 for other in others):
            testable.append(label)
    scores = {label: family[label] for label in family if label in testable}
    return tuple(compare_agents(scores, baseline)) if len(scores) > 1 else ()


def _count_shared_runs(first: SeededScores, second: SeededScores) -> int:
    """Return the number of tasks and seeds that both have."""
    return sum(len(first[task].keys() & second[task].keys()) for task in first.keys() & second.keys())


def _compute_memory_dependence(full: AgentTaskRow, masked: AgentTaskRow) -> MemoryDependence | None:
    """Return the drop of an agent's score from its row on a task to its row on the twin; None without a common seed."""
    first, second = statistics.pair_scores(full.by_seed, masked.by_seed)
    if not first.size:
        return None
    drop = statistics.aggregate_interval({full.task: first - second}, statistics.mean, agent=full.label)
    return MemoryDependence(full.label, full.task, masked.task, len(first), drop)


def get_stem(task: str) -> str:
    """Return the name of a ``task`` without its package and version, in the spelling of task files."""
    return re.sub(r"^isaac_|_v\d+$", "", task.lower().replace("-", "_"))
