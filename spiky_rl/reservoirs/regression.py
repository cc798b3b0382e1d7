"""The linear readout of a reservoir, and its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GRID = 10.0 ** np.arange(-15.0, 0.0)
"""Candidates for the ridge, relative to the sum of the squared deviations of all states from their means."""
HELD_OUT = 5
"""The last 1 / HELD_OUT of the samples validate the ridge."""


@dataclass(frozen=True)
class LinearReadout:
    """A linear map with an intercept."""

    weights: np.ndarray
    """[N, targets]"""
    bias: np.ndarray
    """[targets]"""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Map states [..., N] to [..., targets]."""
        return states @ self.weights + self.bias


def fit_ridge_readout(states: np.ndarray, targets: np.ndarray, ridge: float | None = None) -> LinearReadout:
    """Return the readout that minimises squared error + ``ridge`` x squared weights; the intercept is not penalised.

    Args:
        states: [samples, N]
        targets: [samples, targets]
        ridge: In squared units of the states, summed over samples; 0 gives the solution of minimum norm. With None, each target
            takes the ridge of `GRID` that, fitted to the other samples, has the smallest error on the last fifth of them.
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
    """Return the readout of every ridge, from one decomposition."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(x - x_mean, full_matrices=False)
    # directions without variance carry no information
    significant = s > s.max(initial=0.0) * 1e-12
    s, v, projected = s[significant], v[significant].T, u[:, significant].T @ (y - y_mean)
    weights = [v @ ((s / (s**2 + ridge))[:, None] * projected) for ridge in ridges]
    return [LinearReadout(w, y_mean - x_mean @ w) for w in weights]


def predict_test_series(
    states: np.ndarray, targets: np.ndarray, train: int, test: int, ridge: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a readout to the first half of the series; return its predictions and the targets [test, targets] of the second half.

    Args:
        states: [series, time, N]
        targets: [series, time, targets]
        train: Number of samples for fitting.
        test: Number of samples for testing.
        ridge: See `fit_ridge_readout`.
    """
    half = len(states) // 2

    def stack(values: np.ndarray, count: int) -> np.ndarray:
        return values.reshape(-1, values.shape[-1])[:count]

    readout = fit_ridge_readout(stack(states[:half], train), stack(targets[:half], train), ridge)
    return readout(stack(states[half:], test)), stack(targets[half:], test)


def compute_nmse(target: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean squared error of ``predicted`` over the variance of ``target``; predicting the mean gives 1."""
    return float(np.mean((target - predicted) ** 2) / np.var(target))
