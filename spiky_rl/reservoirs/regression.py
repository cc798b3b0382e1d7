"""The linear readout of a reservoir, and the errors by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GRID = 10.0 ** np.arange(-15.0, 0.0)
"""Ridges to choose from, in the summed variance of the states over all samples."""
HELD_OUT = 5


@dataclass(frozen=True)
class LinearReadout:
    """A linear map with an intercept."""

    weights: np.ndarray
    """[N, targets]"""
    bias: np.ndarray
    """[targets]"""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """States [..., N] -> [..., targets]."""
        return states @ self.weights + self.bias


def ridge_regression(states: np.ndarray, targets: np.ndarray, ridge: float | None = None) -> LinearReadout:
    """The readout that minimises squared error + ``ridge`` x squared weights; the intercept is not penalised.

    Args:
        states: [samples, N]
        targets: [samples, targets]
        ridge: In squared units of the states, summed over samples; 0 takes the solution of least norm. None: of
            `GRID` what does best, for each target, on the last fifth of the samples, fitted to the others.
    """
    x, y = np.asarray(states, np.float64), np.asarray(targets, np.float64)
    if ridge is not None:
        return _solve(x, y, np.array([ridge]))[0]
    size = float(((x - x.mean(0)) ** 2).sum()) or 1.0
    fitted = len(x) - len(x) // HELD_OUT
    candidates = _solve(x[:fitted], y[:fitted], GRID * size)
    errors = np.array([((readout(x[fitted:]) - y[fitted:]) ** 2).sum(0) for readout in candidates])
    chosen = errors.argmin(0)
    readouts = _solve(x, y, GRID * size)
    return LinearReadout(
        np.stack([readouts[c].weights[:, i] for i, c in enumerate(chosen)], -1),
        np.array([readouts[c].bias[i] for i, c in enumerate(chosen)]),
    )


def _solve(x: np.ndarray, y: np.ndarray, ridges: np.ndarray) -> list[LinearReadout]:
    """The readout of every ridge, by one decomposition."""
    mean, middle = x.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(x - mean, full_matrices=False)
    # directions without variance hold nothing to learn from
    significant = s > s.max(initial=0.0) * 1e-12
    s, v, projected = s[significant], v[significant].T, u[:, significant].T @ (y - middle)
    weights = [v @ ((s / (s**2 + ridge))[:, None] * projected) for ridge in ridges]
    return [LinearReadout(w, middle - mean @ w) for w in weights]


def stack_series(values: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` rows of all series of ``values`` [series, time, N], one after another."""
    return values.reshape(-1, values.shape[-1])[:count]


def nmse(target: np.ndarray, predicted: np.ndarray) -> float:
    """Mean squared error of what is ``predicted`` over the variance of the ``target``: 1 is what its mean achieves."""
    return float(np.mean((target - predicted) ** 2) / np.var(target))
