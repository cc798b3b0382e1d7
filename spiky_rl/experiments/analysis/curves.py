"""Learning curves: a value over environment steps, as a band over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spiky_rl.experiments.analysis.statistics import (
    Band,
    Statistic,
    StatisticsError,
    compute_intervals,
    interquartile_mean,
)

type Run = tuple[Sequence[float] | np.ndarray, Sequence[float | None] | np.ndarray]
"""Learning curve of a seed: ascending environment steps, and the value at each, None without one."""


def make_step_grid(
    runs: Mapping[str, Sequence[Run]], points: int = 100, *, agent: str = "curves"
) -> np.ndarray:
    """Return evenly spaced environment steps from the first with a value of some run to the last with a value of all runs.

    Args:
        runs: Learning curves of each task's seeds.
        agent: Name for messages.
    """
    measured = [steps for task in _collect_curves(runs, agent).values() for steps, _ in task if len(steps)]
    if not measured:
        raise StatisticsError(f"{agent}: no learning curve has a value")
    return np.linspace(min(steps[0] for steps in measured), min(steps[-1] for steps in measured), points)


def compute_learning_curve(
    runs: Mapping[str, Sequence[Run]],
    env_steps: Sequence[float] | np.ndarray,
    statistic: Statistic = interquartile_mean,
    *,
    agent: str = "curves",
) -> Band:
    """Return a statistic of all runs at each of ``env_steps``, with the intervals of `aggregate_interval`.

    Curves are interpolated, not extrapolated. If one run has no value, because no episode has ended yet or its curve has ended, there is no
    estimate: the mean of the others would be biased.

    Args:
        runs: Learning curves of each task's seeds.
        env_steps: Steps of the result.
        statistic: Function of all runs' scores.
        agent: Name for messages.
    """
    at = np.asarray(env_steps, dtype=float)
    tasks = [
        np.array(
            [np.interp(at, *run, left=np.nan, right=np.nan) if len(run[0]) else at * np.nan for run in curves]
        )
        for curves in _collect_curves(runs, agent).values()
    ]
    values = np.concatenate(tasks).T
    there = np.isfinite(values)
    complete = there.all(axis=1)
    ordered = np.concatenate([np.sort(task, axis=0) for task in tasks]).T
    estimate, low, high = np.full((3, len(at)), np.nan)
    if complete.any():
        sizes = [len(task) for task in tasks]
        estimate[complete], low[complete], high[complete] = compute_intervals(
            ordered[complete], sizes, statistic
        )
    return Band(at, estimate, low, high, there.sum(axis=1))


def _collect_curves(
    runs: Mapping[str, Sequence[Run]], agent: str
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return steps and values of each run, by task in the order of names. Raises StatisticsError that names agent, task and run."""
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for task in sorted(runs):
        if not runs[task]:
            raise StatisticsError(f"{agent}, {task}: there are no learning curves")
        curves[task] = []
        for number, (steps, values) in enumerate(runs[task]):
            x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
            where = f"{agent}, {task}, run {number}"
            if x.shape != y.shape or x.ndim != 1:
                raise StatisticsError(f"{where}: {x.size} env steps do not go with {y.size} values")
            if not np.isfinite(x).all() or (np.diff(x) <= 0).any():
                raise StatisticsError(f"{where}: env steps must be numbers that ascend")
            if np.isinf(y).any():
                raise StatisticsError(f"{where}: a value is infinite")
            known = ~np.isnan(y)
            curves[task].append((x[known], y[known]))
    if not curves:
        raise StatisticsError(f"{agent}: there are no learning curves of any task")
    return curves
