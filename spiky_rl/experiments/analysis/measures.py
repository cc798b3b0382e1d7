"""Measures of one agent on one task: means over seeds with intervals, one row of a report's tables.

A run that never reached the task's threshold counts as one that takes longer than its budget; it is never left out.
"""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spiky_rl.experiments.analysis import statistics
from spiky_rl.experiments.analysis.statistics import Interval
from spiky_rl.experiments.run.results import CellResult, ConditionRecord
from spiky_rl.metrics.energy import ANN_ENERGY_MODELS, ENERGY_MODELS, MAIN

PRICE = "fp32"
"""Price of arithmetic alone, which results of every version can be given."""
WINDOW = 5
"""Iterations over which the training return is averaged before it is held against the threshold."""
ARITHMETIC = ("additions", "multiplications", "transcendental")
COUNTS = ("effective_operations", "effective_acs", "encoder_operations", "neuron_updates", "parameters")
"""Fields of `spiky_rl.metrics.energy.InferenceCost` that a report shows."""
LEAST = 0.1
"""Share of the baseline's mean score that every seed must reach for shares of scores to mean something."""


@dataclass(frozen=True)
class ThresholdSummary:
    """Environment steps until the training return reached the task's threshold."""

    solved: float
    runs: int
    steps: tuple[int, ...]
    """Environment steps of the runs that reached it, in the order of their seeds."""
    median: float | None
    """Over all runs; None where half of them or more never reached it."""
    budget: int
    """Environment steps of the longest run."""

    @property
    def reached(self) -> int:
        """How many runs reached it."""
        return len(self.steps)


@dataclass(frozen=True)
class Energy:
    """Under one assumption on prices, in nJ."""

    step: Interval
    """Per control step."""
    episode: Interval
    """Per undisturbed episode."""


@dataclass(frozen=True)
class AgentTaskRow:
    """One agent on one task; intervals are over seeds."""

    label: str
    task: str
    by_seed: Mapping[int, float]
    """Scores."""
    mean: Interval
    iqm: Interval
    normalised: Interval | None
    """Interquartile mean of the normalised scores."""
    training: Interval | None
    """Mean return of the last iterations, exploring."""
    final_slope: Interval | None
    """Rise of the training return from the last tenth but one of all iterations to the last tenth."""
    threshold: ThresholdSummary | None
    seconds: Interval | None
    """Seconds of training, by the clock."""
    processor: Interval | None
    """Seconds that processors spent on training; None where a run's are not known."""
    length: Interval
    """Control steps of an undisturbed episode."""
    distance: Interval | None
    """Metres between the beginning and the end of an undisturbed episode; None where that is not measured."""
    firing_rate: Interval | None
    counts: Mapping[str, Interval]
    """Per control step: `COUNTS`, and ``arithmetic``, what they do together; empty where nothing was counted."""
    episode_operations: Interval | None
    """Effective synaptic operations of an undisturbed episode."""
    energy: Mapping[str, Energy]
    """By the name of the prices."""
    rival: Mapping[str, Interval]
    """Energy in nJ of a control step of an ANN of the same sizes that skips zeros, by the name of the prices.

    Empty of an ANN, and where results do not hold that ANN's counts.
    """
    metre: Mapping[str, Interval]
    """Energy in µJ of a metre gone, by the name of the prices; empty where a seed's robot went nowhere."""
    rival_metre: Mapping[str, Interval]
    """The same of that ANN, if it went as far."""


@dataclass(frozen=True)
class RobustnessScore:
    """The part of an agent's score that is left under a condition."""

    text: str
    score: Interval
    share: Interval | None
    """Share of the undisturbed score, the mean of each seed's; None where a seed's is hardly above zero."""


def drop_seed_names(scores: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    """The ``scores`` without the names of their seeds."""
    return {task: list(seeds.values()) for task, seeds in scores.items()}


def _mean_over_seeds(
    results: Sequence[CellResult], value: Callable[[CellResult], float | None]
) -> Interval | None:
    """The mean over seeds; None where a seed has no value."""
    values = [v for result in results if (v := value(result)) is not None]
    if len(values) < len(results):
        return None
    return statistics.aggregate_interval({results[0].task: values}, statistics.mean, agent=results[0].label)


def _require_interval(interval: Interval | None) -> Interval:
    """The interval of what every cell has."""
    assert interval is not None
    return interval


def compute_row(
    results: Sequence[CellResult], random: Mapping[str, float], reference: Mapping[str, float]
) -> AgentTaskRow:
    """The row of an agent on a task.

    Args:
        results: Results of its cells, one for each seed.
        random: Score of random actions by task.
        reference: The baseline's mean score by task; empty where scores of the task cannot be normalised.
    """
    first, scores = results[0], {results[0].task: {result.seed: result.score for result in results}}
    normalised = statistics.normalise(scores, random, reference) if reference else None

    def episode(result: CellResult, price: str) -> float | None:
        energy = compute_step_energy(result, price)
        return None if energy is None else energy * result.nominal.mean_length

    steps, episodes = (
        _average_each(results, value, ENERGY_MODELS) for value in (compute_step_energy, episode)
    )
    counts = {name: _mean_over_seeds(results, lambda r, n=name: _counted(r, n)) for name in COUNTS}
    counts["arithmetic"] = _mean_over_seeds(results, lambda r: _counted(r, *ARITHMETIC))
    return AgentTaskRow(
        label=first.label,
        task=first.task,
        by_seed=scores[first.task],
        mean=_require_interval(_mean_over_seeds(results, lambda r: r.score)),
        iqm=statistics.aggregate_interval(drop_seed_names(scores), agent=first.label),
        normalised=None if normalised is None else statistics.aggregate_interval(drop_seed_names(normalised)),
        training=_mean_over_seeds(results, lambda r: r.training and r.training.mean_return_final),
        final_slope=_mean_over_seeds(results, _rise),
        threshold=_threshold(results),
        seconds=_mean_over_seeds(results, lambda r: r.training and r.training.seconds_total),
        processor=_mean_over_seeds(results, lambda r: r.training and r.training.seconds_cpu),
        length=_require_interval(_mean_over_seeds(results, lambda r: r.nominal.mean_length)),
        distance=_mean_over_seeds(results, lambda r: r.nominal.measures.get("distance")),
        firing_rate=_mean_over_seeds(results, lambda r: r.nominal.firing_rate),
        counts={name: interval for name, interval in counts.items() if interval is not None},
        episode_operations=_mean_over_seeds(
            results, lambda r: _counted(r, "effective_operations", steps=r.nominal.mean_length)
        ),
        energy={name: Energy(step, episodes[name]) for name, step in steps.items()},
        rival=_average_each(results, compute_ann_energy, ANN_ENERGY_MODELS),
        metre=_average_each(results, energy_per_metre, ENERGY_MODELS),
        rival_metre=_average_each(
            results, lambda r, p: _per_metre(r, compute_ann_energy(r, p)), ANN_ENERGY_MODELS
        ),
    )


def compute_step_energy(result: CellResult, price: str) -> float | None:
    """Return the energy in nJ of a control step of ``result`` at the prices of that name, from the counts that it holds.

    None if there are no counts, or if the prices ask for some that a result of an earlier version does not hold. Raises
    RegistryError for prices that there are not.
    """
    return None if result.cost is None else result.cost.compute_energy(price)


def energy_per_metre(result: CellResult, price: str) -> float | None:
    """Return the energy in µJ of a metre of the undisturbed episode, as `compute_step_energy`; None if the robot goes nowhere, too."""
    return _per_metre(result, compute_step_energy(result, price))


def compute_ann_energy(result: CellResult, price: str) -> float | None:
    """Return `compute_step_energy` the ANN of the same sizes that skips zeros; None if ``result`` does not hold its counts."""
    rival = result.cost and result.cost.ann_skipping_zeros
    return None if rival is None else rival.compute_energy(price)


def choose_energy_models(rows: Iterable[AgentTaskRow]) -> Mapping[str, str]:
    """Return the prices that stand first for ``rows``, and the arithmetic that names them: `MAIN`, or without memory.

    Without memory only if no row holds the counts that memory is priced from.
    """
    names = {name for row in rows for name in row.energy}
    return (
        MAIN
        if any(name in names for name in MAIN)
        else {kind: kind for kind in MAIN.values() if kind in names}
    )


def _per_metre(result: CellResult, energy: float | None) -> float | None:
    """Energy in µJ of a metre, if a control step takes ``energy`` in nJ."""
    distance = result.nominal.measures.get("distance", 0.0)
    return (
        None if energy is None or distance <= 0.0 else energy * result.nominal.mean_length / distance / 1000.0
    )


def _average_each(
    results: Sequence[CellResult], value: Callable[[CellResult, str], float | None], names: Iterable[str]
) -> dict[str, Interval]:
    """The mean over seeds of a value at prices of these ``names``; without those at which a seed has none."""
    means = {name: _mean_over_seeds(results, lambda r, n=name: value(r, n)) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def _counted(result: CellResult, *names: str, steps: float = 1.0) -> float | None:
    """The sum of what was counted under these names, of so many control steps."""
    return None if result.cost is None else steps * sum(getattr(result.cost, name) for name in names)


def find_steps_to_threshold(result: CellResult) -> int | None:
    """The first environment step of a ``result`` at which the mean return of the last `WINDOW` iterations reaches the threshold.

    None: it never did, or the task has no threshold, or there was no training.
    """
    if result.solved is None or result.curve is None:
        return None
    returns = result.curve.returns
    window = min(WINDOW, len(returns))
    for end in range(window, len(returns) + 1):
        last = [value for value in returns[end - window : end] if value is not None]
        if last and len(last) == window and plain.fmean(last) >= result.solved:
            return result.curve.env_steps[end - 1]
    return None


def _threshold(results: Sequence[CellResult]) -> ThresholdSummary | None:
    solved = results[0].solved
    if solved is None:
        return None
    reached = [find_steps_to_threshold(result) for result in results]
    ordered = sorted(math.inf if step is None else step for step in reached)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    longest = max(result.curve.env_steps[-1] for result in results if result.curve and result.curve.env_steps)
    steps = tuple(step for step in reached if step is not None)
    return ThresholdSummary(solved, len(results), steps, None if math.isinf(median) else median, longest)


def _rise(result: CellResult) -> float | None:
    known = [value for value in (result.curve.returns if result.curve else ()) if value is not None]
    tenth = len(known) // 10
    return plain.fmean(known[-tenth:]) - plain.fmean(known[-2 * tenth : -tenth]) if tenth else None


def compute_robustness(
    results: Sequence[CellResult], condition: str, reference: float | None
) -> RobustnessScore | None:
    """The part of an agent's score on a task that is left under a condition; None where that was not measured.

    Args:
        results: Results of its cells, one for each seed.
        condition: Its name.
        reference: The baseline's mean score, if there is one.
    """
    measured = [result for result in results if condition in result.conditions]
    if not measured:
        return None
    least = LEAST * max(reference or 0.0, 0.0)
    share = None
    if all(result.score > least for result in measured):
        share = _mean_over_seeds(measured, lambda r: r.conditions[condition].mean_return / r.score)
    score = _require_interval(_mean_over_seeds(measured, lambda r: r.conditions[condition].mean_return))
    return RobustnessScore(measured[0].conditions[condition].text, score, share)


def compute_recovery(results: Sequence[CellResult], condition: str) -> Interval | None:
    """Share of the reward that is there again at an episode's end, over ``results`` of an agent on a task under a ``condition``.

    None where a seed has none.
    """
    measured = [result for result in results if condition in result.conditions]
    return (
        _mean_over_seeds(measured, lambda r: _get_recovery_share(r.conditions[condition]))
        if measured
        else None
    )


def _get_recovery_share(condition: ConditionRecord) -> float | None:
    return condition.recovery and condition.recovery.share


def compute_plasticity_gain(
    results: Sequence[CellResult], condition: str
) -> tuple[Interval, Interval, Interval] | None:
    """Score with frozen weights, with weights that change as the policy acts, and what that gains, paired by seed.

    Args:
        results: Results of an agent's cells on a task, one for each seed.
        condition: Its name.

    None where a seed was not measured so.
    """
    if not all(condition in result.plastic and condition in result.conditions for result in results):
        return None
    frozen = _mean_over_seeds(results, lambda r: r.conditions[condition].mean_return)
    moving = _mean_over_seeds(results, lambda r: r.plastic[condition].mean_return)
    gain = _mean_over_seeds(
        results, lambda r: r.plastic[condition].mean_return - r.conditions[condition].mean_return
    )
    return _require_interval(frozen), _require_interval(moving), _require_interval(gain)
