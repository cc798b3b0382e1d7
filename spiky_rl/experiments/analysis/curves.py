"""Learning curves: the return over environment steps, as a band over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiky_rl.experiments.analysis.statistics import Band, compute_intervals, interquartile_mean
from spiky_rl.experiments.run.results import CurveRecord

MAX_POINTS = 100
"""Maximum number of points of a curve."""


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
