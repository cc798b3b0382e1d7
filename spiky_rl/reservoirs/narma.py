"""NARMA: the reservoir must predict a nonlinear autoregressive moving average of its input.

    y(t+1) = a y(t) + b y(t) sum_(i=0..n-1) y(t-i) + c u(t-n+1) u(t) + d,    u ~ U(0, 0.5)

Alignment: the readout at time t sees the input up to u(t) and must return y(t+1), the last value that this input determines.
(Returning y(t) would be another, slightly harder task.)

Source: Atiya & Parlos (2000). The series of ReservoirPy 0.4's dataset are different: it sums y(t-n..t-1) and multiplies u(t-n),
while the source has y(t-n+1..t) and u(t-n+1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from spiky_rl.reservoirs.echo_state import ReservoirFunction
from spiky_rl.reservoirs.regression import compute_nmse, predict_test_series

COEFFICIENTS: Mapping[int, tuple[float, float, float, float]] = MappingProxyType(
    {10: (0.3, 0.05, 1.5, 0.1), 30: (0.2, 0.04, 1.5, 0.001)}
)
"""Order n -> (a, b, c, d)."""
INPUT = (0.0, 0.5)
"""Range of u."""
DIVERGED_ABOVE = 2.0
"""A series above this value, which is beyond the unstable fixed points at 1.0 and 0.5, goes to infinity."""
MAX_DRAWS = 1000
"""Attempts to draw a series that does not diverge."""


@dataclass(frozen=True)
class NarmaScore:
    """Error of a readout on the test series."""

    nmse: float
    """Mean squared error over the target's variance."""

    @property
    def nrmse(self) -> float:
        """The error in standard deviations of the target."""
        return float(np.sqrt(self.nmse))


def compute_target(u: np.ndarray, order: int = 10) -> np.ndarray:
    """Return the targets [time] for inputs ``u`` [time]: element t is y(t+1). Before the first input, y and u are 0."""
    a, b, c, d = COEFFICIENTS[order]
    y = np.zeros(order + len(u))
    past = np.concatenate([np.zeros(order - 1), u])
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(len(u)):
            recent = y[t : t + order]
            y[t + order] = (
                a * recent[-1] + b * recent[-1] * recent.sum() + c * past[t] * past[t + order - 1] + d
            )
    return y[order:]


def draw_series(steps: int, generator: np.random.Generator, order: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of length ``steps``. A series that diverges is drawn again; ``order`` is 10 or 30."""
    if order not in COEFFICIENTS:
        raise ValueError(f"order: {order} given; allowed: {', '.join(map(str, COEFFICIENTS))}")
    for _ in range(MAX_DRAWS):
        u = generator.uniform(*INPUT, steps)
        y = compute_target(u, order)
        if np.isfinite(y).all() and y.max() < DIVERGED_ABOVE:
            return u, y
    raise ValueError(f"NARMA-{order} diverges in {MAX_DRAWS} draws of {steps} steps; use shorter series")


def evaluate_narma(
    drive: ReservoirFunction,
    generator: np.random.Generator,
    order: int = 10,
    train: int = 2000,
    test: int = 2000,
    washout: int = 200,
    series: int = 1,
    ridge: float | None = None,
) -> NarmaScore:
    """Return the error of a ridge readout on test series.

    Args:
        drive: Inputs [series, time, 1] -> states [series, time, N].
        generator: Random generator of the series; the same state gives the same task.
        order: 10 or 30.
        train: Number of samples for fitting.
        test: Number of samples for testing.
        washout: Steps at the start of every series that are not used.
        series: Number of parallel series that the samples for fitting are split over, and likewise the samples for testing.
        ridge: See `fit_ridge_readout`.
    """
    length = math.ceil(max(train, test) / series)
    drawn = [draw_series(washout + length, generator, order) for _ in range(2 * series)]
    states = drive(np.stack([u for u, _ in drawn])[..., None])[:, washout:]
    targets = np.stack([y for _, y in drawn])[:, washout:, None]
    predicted, target = predict_test_series(states, targets, train, test, ridge)
    return NarmaScore(compute_nmse(target, predicted))
