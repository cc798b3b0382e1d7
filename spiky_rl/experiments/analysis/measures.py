"""Measures of one agent on one task: means over seeds with intervals, for the rows of a report's tables.

A run that never reached the task's threshold is not left out: it counts as a run that takes longer than its budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from spiky_rl.experiments.analysis import statistics
from spiky_rl.experiments.analysis.statistics import Band, Interval, compute_intervals, interquartile_mean
from spiky_rl.experiments.run.records import CellResult, CurveRecord
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, ENERGY_MODELS, MAIN_ENERGY_MODELS, spread_over_distance

ARITHMETIC_MODEL = "fp32"
"""Energy model of arithmetic alone; the results of every version have the counts that it needs."""
WINDOW = 5
"""Number of iterations whose mean return is compared with the threshold."""
COUNTS = {
    "effective_operations": ("effective_operations",),
    "effective_acs": ("effective_acs",),
    "encoder_operations": ("encoder_operations",),
    "neuron_updates": ("neuron_updates",),
    "parameters": ("parameters",),
    "arithmetic": ("additions", "multiplications", "transcendental"),
}
"""Counts in a report, each the sum of these fields of `spiky_rl.metrics.energy.InferenceCost`; ``arithmetic`` is that of neuron updates."""
MIN_SCORE_SHARE = 0.1
"""Smallest score of a seed, as a share of the baseline's mean, at which a share of this score has a meaning."""
MAX_POINTS = 100
"""Maximum number of points of a curve."""


@dataclass(frozen=True)
class ThresholdSummary:
    """Environment steps until the training return reached the task's threshold."""

    runs: int
    steps: tuple[int, ...]
    """Environment steps of each run that reached the threshold, in the order of seeds."""
    median: float | None
    """Median over all runs; None if half of them or more never reached the threshold."""
    budget: int
    """Environment steps of the longest run."""

    @property
    def reached(self) -> int:
        """Number of runs that reached the threshold."""
        return len(self.steps)


@dataclass(frozen=True)
class AgentTaskRow:
    """Measures of one agent on one task; intervals are over seeds."""

    label: str
    task: str
    by_seed: Mapping[int, float]
    """Scores."""
    mean: Interval
    iqm: Interval
    normalised: Interval | None
    """Interquartile mean of the normalised scores."""
    training: Interval | None
    """Mean return of the last iterations, with exploration."""
    last_ten_evaluations: Interval | None
    """Mean return of the last ten evaluations during the training; None if a seed has no evaluations."""
    max_evaluation: Interval | None
    """Highest mean return of an evaluation during the training, which overestimates the final policy; None if a seed has no evaluations."""
    final_slope: Interval | None
    """Mean training return of the last tenth of the iterations minus the mean of the tenth before."""
    threshold: ThresholdSummary | None
    seconds: Interval | None
    """Wall seconds of training."""
    processor: Interval | None
    """Processor seconds of training, over the runs that counted them: not the resumed ones; None if all were resumed."""
    length: Interval
    """Control steps of an undisturbed episode."""
    distance: Interval | None
    """Metres between start and end of an undisturbed episode; None if not measured."""
    firing_rate: Interval | None
    counts: Mapping[str, Interval]
    """`COUNTS` per control step; empty if nothing was counted."""
    episode_operations: Interval | None
    """Effective synaptic operations of an undisturbed episode."""
    energy: Mapping[str, Interval]
    """Energy in nJ of a control step, by energy model."""
    episode_energy: Mapping[str, Interval]
    """Energy in nJ of an undisturbed episode, by energy model."""
    ann_energy: Mapping[str, Interval]
    """Energy in nJ of a control step of the equal-size ANN that skips zeros, by energy model; empty for an ANN, and without its counts."""
    energy_per_metre: Mapping[str, Interval]
    """Energy in µJ, by energy model; empty if a seed's robot does not move."""
    ann_energy_per_metre: Mapping[str, Interval]
    """Energy in µJ per metre of the equal-size ANN, over the same distance, by energy model."""


@dataclass(frozen=True)
class RobustnessScore:
    """Score of an agent under a condition."""

    text: str
    score: Interval
    share: Interval | None
    """Mean over seeds of the score as a share of the undisturbed one; None if the undisturbed score of a seed is near or below zero."""


def _average(results: Sequence[CellResult], values: Sequence[float]) -> Interval:
    """Return the mean over seeds of ``values``, one for each of the ``results``."""
    return statistics.aggregate_interval({results[0].task: values}, statistics.mean, agent=results[0].label)


def _average_known(
    results: Sequence[CellResult], value: Callable[[CellResult], float | None]
) -> Interval | None:
    """Return the mean over seeds of ``value``; None if a seed has no value."""
    values = [number for number in map(value, results) if number is not None]
    return _average(results, values) if len(values) == len(results) else None


def compute_row(
    results: Sequence[CellResult],
    random: Mapping[str, float],
    reference: Mapping[str, float],
    can_normalise: bool,
    solved: float | None,
) -> AgentTaskRow:
    """Return the measures of an agent on a task from the ``results`` of its seeds.

    ``random`` and ``reference`` are mean scores of random actions and of the baseline, by task; ``can_normalise`` says whether the task has
    both, and the baseline's is the higher one; ``solved`` is the return from which it counts as solved, None if it has none.
    """

    def average_training(key: str, of_results: Sequence[CellResult] = results) -> Interval | None:
        return _average_known(of_results, lambda r: r.training and getattr(r.training, key))

    first = results[0]
    timed = [r for r in results if r.training is not None and r.training.seconds_cpu is not None]
    scores = {first.task: {result.seed: result.score for result in results}}
    normalised = None
    if can_normalise:
        by_seed = statistics.normalise(scores, random, reference)
        normalised = statistics.aggregate_interval(statistics.drop_seed_names(by_seed))

    return AgentTaskRow(
        label=first.label,
        task=first.task,
        by_seed=scores[first.task],
        mean=_average(results, [r.score for r in results]),
        iqm=statistics.aggregate_interval(statistics.drop_seed_names(scores), agent=first.label),
        normalised=normalised,
        training=average_training("mean_return_final"),
        last_ten_evaluations=average_training("last_ten_evaluations"),
        max_evaluation=average_training("max_evaluation"),
        final_slope=_average_known(results, _compute_final_slope),
        threshold=_summarize_threshold(results, solved),
        seconds=average_training("seconds_total"),
        processor=average_training("seconds_cpu", timed) if timed else None,
        length=_average(results, [r.nominal.mean_length for r in results]),
        distance=_average_known(results, lambda r: r.nominal.measures.get("distance")),
        firing_rate=_average_known(results, lambda r: r.nominal.firing_rate),
        counts=_average_each(
            results, lambda r, name: r.cost and sum(getattr(r.cost, field) for field in COUNTS[name]), COUNTS
        ),
        episode_operations=_average_known(
            results, lambda r: r.cost and r.cost.effective_operations * r.nominal.mean_length
        ),
        energy=_average_each(results, compute_step_energy, ENERGY_MODELS),
        episode_energy=_average_each(results, compute_episode_energy, ENERGY_MODELS),
        ann_energy=_average_each(results, compute_ann_energy, ANN_ENERGY_MODELS),
        energy_per_metre=_average_each(results, compute_metre_energy, ENERGY_MODELS),
        ann_energy_per_metre=_average_each(
            results, lambda r, p: _divide_by_distance(r, compute_ann_energy(r, p)), ANN_ENERGY_MODELS
        ),
    )


def compute_step_energy(result: CellResult, model: str) -> float | None:
    """Return the energy in nJ of a control step of ``result`` under an energy ``model``.

    None without the counts that it needs, and for an ANN if the model does not apply to ANNs. Raises RegistryError for an unknown energy
    model.
    """
    energy = None if result.cost is None else result.cost.compute_energy(model)
    return energy if model in ANN_ENERGY_MODELS or has_spikes(result) else None


def has_spikes(result: CellResult) -> bool:
    """Return whether a firing rate of ``result`` is above 0, in the training or undisturbed.

    Those of an ANN are 0 or unknown, unless it has a network, such as one of ReLU units: its study names it as an ANN.
    """
    rates = [result.nominal.firing_rate, *(result.curve.firing_rate if result.curve else ())]
    return not result.is_ann and any(rates)


def compute_episode_energy(result: CellResult, model: str) -> float | None:
    """Return the energy in nJ of an undisturbed episode, like `compute_step_energy`."""
    energy = compute_step_energy(result, model)
    return None if energy is None else energy * result.nominal.mean_length


def compute_metre_energy(result: CellResult, model: str) -> float | None:
    """Return the energy per metre in µJ of the undisturbed episode, like `compute_step_energy`; None also if the robot does not move."""
    return _divide_by_distance(result, compute_step_energy(result, model))


def compute_ann_energy(result: CellResult, model: str) -> float | None:
    """Return the energy in nJ of a control step of the equal-size ANN that skips zeros; None for an ANN, or without its counts in ``result``."""
    if result.is_ann or result.cost is None or result.cost.ann_skipping_zeros is None:
        return None
    return result.cost.ann_skipping_zeros.compute_energy(model)


def choose_energy_models(rows: Iterable[AgentTaskRow]) -> Mapping[str, str]:
    """Return the main energy models of ``rows`` with their column titles.

    These are `MAIN_ENERGY_MODELS`, or models without memory if no row has the counts of memory accesses.
    """
    names = {name for row in rows for name in row.energy}
    if names & MAIN_ENERGY_MODELS.keys():
        return MAIN_ENERGY_MODELS
    return {kind: kind for kind in MAIN_ENERGY_MODELS.values() if kind in names}


def _divide_by_distance(result: CellResult, energy: float | None) -> float | None:
    """Return the energy in µJ per metre for an ``energy`` of a control step in nJ; None if it or the distance is unknown."""
    distance = result.nominal.measures.get("distance", 0.0)
    if energy is None or distance <= 0.0:
        return None
    return spread_over_distance(energy, result.nominal.mean_length, distance)


def _average_each(
    results: Sequence[CellResult], value: Callable[[CellResult, str], float | None], names: Iterable[str]
) -> dict[str, Interval]:
    """Return the mean over seeds of ``value`` by name; a name without a value for every seed is left out."""
    means = {name: _average_known(results, lambda result, name=name: value(result, name)) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def find_steps_to_threshold(result: CellResult, solved: float | None) -> int | None:
    """Return the first environment step at which the mean return of the last `WINDOW` iterations reaches the threshold ``solved``.

    None if it never did, the task has no threshold, or there was no training.
    """
    if solved is None or result.curve is None:
        return None
    returns = result.curve.returns
    window = min(WINDOW, len(returns))
    for end in range(window, len(returns) + 1):
        latest = [value for value in returns[end - window : end] if value is not None]
        if latest and len(latest) == window and fmean(latest) >= solved:
            return result.curve.env_steps[end - 1]
    return None


def _summarize_threshold(results: Sequence[CellResult], solved: float | None) -> ThresholdSummary | None:
    if solved is None:
        return None
    reached = [find_steps_to_threshold(result, solved) for result in results]
    steps = tuple(step for step in reached if step is not None)
    middle = median([*steps, *[math.inf] * (len(results) - len(steps))])
    return ThresholdSummary(
        runs=len(results),
        steps=steps,
        median=None if math.isinf(middle) else middle,
        budget=max(result.training.env_steps for result in results if result.training is not None),
    )


def _compute_final_slope(result: CellResult) -> float | None:
    """Return `AgentTaskRow.final_slope` of one run; None with fewer than 10 returns."""
    if result.curve is None:
        return None
    returns = [value for value in result.curve.returns if value is not None]
    tenth = len(returns) // 10
    if not tenth:
        return None
    return fmean(returns[-tenth:]) - fmean(returns[-2 * tenth : -tenth])


def compute_learning_curve(curves: Sequence[CurveRecord]) -> Band | None:
    """Return the interquartile mean of the ``curves`` of an agent's seeds on a task, with its intervals; None if a curve has no return.

    Its points are evenly spaced, from the earliest return of any run to the last step that every run reached. Curves are interpolated, not
    extrapolated. Where one run has no return yet, because no episode has ended, there is no estimate: the mean of the others would be biased.
    """
    runs = []
    for curve in curves:
        steps, returns = np.array(curve.env_steps, dtype=float), np.array(curve.returns, dtype=float)
        is_known = ~np.isnan(returns)
        runs.append((steps[is_known], returns[is_known]))
    if not all(len(steps) for steps, _ in runs):
        return None
    points = min(MAX_POINTS, max(len(curve.returns) for curve in curves))
    at = np.linspace(min(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs), points)
    values = np.sort([np.interp(at, *run, left=np.nan, right=np.nan) for run in runs], axis=0).T
    is_complete = np.isfinite(values).all(axis=1)
    estimate, low, high = np.full((3, points), np.nan)
    if is_complete.any():
        estimate[is_complete], low[is_complete], high[is_complete] = compute_intervals(
            values[is_complete], [len(runs)], interquartile_mean
        )
    return Band(at, estimate, low, high)


def can_share_score(result: CellResult, reference: float | None) -> bool:
    """Return whether a share of the score has a meaning: it is above zero and above `MIN_SCORE_SHARE` of the baseline's mean ``reference``."""
    return result.score > MIN_SCORE_SHARE * max(reference or 0.0, 0.0)


def compute_robustness(
    results: Sequence[CellResult], condition: str, reference: float | None
) -> RobustnessScore | None:
    """Return the score of an agent's seeds on a task under a ``condition``; None for the undisturbed one, and if it was not measured.

    ``reference`` is the baseline's mean score; None if there is none.
    """
    measured = [result for result in results if condition in result.conditions]
    if not measured or condition == "nominal":
        return None
    returns, share = [result.conditions[condition].mean_return for result in measured], None
    if all(can_share_score(result, reference) for result in measured):
        shares = [value / result.score for value, result in zip(returns, measured, strict=True)]
        share = _average(measured, shares)
    return RobustnessScore(measured[0].conditions[condition].text, _average(measured, returns), share)


def compute_recovery(results: Sequence[CellResult], condition: str) -> Interval | None:
    """Return the share of the reward that an agent regains by an episode's end under a ``condition``; None if a seed has none."""
    measured = [result for result in results if condition in result.conditions]
    if not measured:
        return None
    return _average_known(measured, lambda r: (found := r.conditions[condition].recovery) and found.share)


def compute_plasticity_gain(
    results: Sequence[CellResult], condition: str
) -> tuple[Interval, Interval, Interval] | None:
    """Return the score with frozen weights, the score with plastic weights, and the gain, paired by seed.

    None if a seed was not measured in both ways.
    """
    if not all(condition in result.plastic and condition in result.conditions for result in results):
        return None
    frozen = [result.conditions[condition].mean_return for result in results]
    plastic = [result.plastic[condition].mean_return for result in results]
    gains = [after - before for before, after in zip(frozen, plastic, strict=True)]
    return _average(results, frozen), _average(results, plastic), _average(results, gains)
