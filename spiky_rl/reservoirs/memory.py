"""Task-independent measures of a reservoir: ranks, memory, separation, growth of perturbations.

Every measure takes a `ReservoirFunction`: inputs [series, time, channels] -> states [series, time, N]; each series starts from rest. Inputs are
uniform in [-1, 1] if a measure does not state otherwise; `standardize_inputs` adapts a reservoir that expects other inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spiky_rl.reservoirs.echo_state import ReservoirFunction
from spiky_rl.reservoirs.regression import predict_test_series

RANK_SHARE = 0.99
"""The rank is the number of largest singular values that sum to this share of the sum of all."""
MIN_CORRELATION = 0.1
"""Smallest squared correlation that counts; a finite sample reaches smaller ones by chance."""
RESOLUTION = 100.0
"""Smallest distance of two states that counts as a difference, in units of their rounding error."""


@dataclass(frozen=True)
class StateRank:
    """Rank of a matrix of states."""

    value: int
    size: int
    """N, the maximum rank."""

    @property
    def fraction(self) -> float:
        """Rank / N."""
        return self.value / self.size


@dataclass(frozen=True)
class MemoryCapacity:
    """Memory of past inputs in a linear readout."""

    correlations: np.ndarray
    """[delays]: squared correlation of the readout with the input k = 1, 2, ... steps ago, on the test series."""

    @property
    def total(self) -> float:
        """The capacity: sum of the correlations above `MIN_CORRELATION`. At most N."""
        return float(self.correlations[self.correlations >= MIN_CORRELATION].sum())


def standardize_inputs(drive: ReservoirFunction, low: float, high: float) -> ReservoirFunction:
    """Wrap ``drive``: inputs uniform in [``low``, ``high``] reach it with mean 0 and variance 1."""
    mean, deviation = 0.5 * (low + high), (high - low) / np.sqrt(12.0)
    return lambda u: drive((u - mean) / deviation)


def compute_rank(states: np.ndarray) -> StateRank:
    """Return the numerical rank of ``states`` [samples, N]: the fewest singular values that sum to 99 % of the total."""
    s = np.linalg.svd(np.asarray(states, np.float64), compute_uv=False)
    total = s.sum()
    value = int(np.searchsorted(np.cumsum(s), RANK_SHARE * total) + 1) if total > 0.0 else 0
    return StateRank(value, states.shape[-1])


def compute_kernel_rank(
    drive: ReservoirFunction, generator: np.random.Generator, series: int = 100, steps: int = 100
) -> StateRank:
    """Return the rank of the last states under different inputs: the number of directions that separate them.

    The rank is at most the number of input ``series``, so use at least N. Source: Legenstein & Maass (2007), as linear separation.
    """
    return compute_rank(drive(generator.uniform(-1.0, 1.0, (series, steps, 1)))[:, -1])


def compute_generalisation_rank(
    drive: ReservoirFunction,
    generator: np.random.Generator,
    series: int = 100,
    steps: int = 100,
    shared: int = 50,
) -> StateRank:
    """Return the rank of the last states under inputs that differ in the past and are equal in their last ``shared`` steps.

    Low is good: states of one class span few directions. Source: Legenstein & Maass (2007).
    """
    if not 0 <= shared < steps:
        raise ValueError(
            f"shared: {shared} is out of range; allowed: 0 to {steps - 1}, one less than the steps"
        )
    u = generator.uniform(-1.0, 1.0, (series, steps, 1))
    u[:, steps - shared :] = u[:1, steps - shared :]
    return compute_rank(drive(u)[:, -1])


def compute_memory_capacity(
    drive: ReservoirFunction,
    generator: np.random.Generator,
    delays: int,
    train: int = 2000,
    test: int = 2000,
    washout: int = 200,
    series: int = 1,
    ridge: float | None = None,
) -> MemoryCapacity:
    """Return the linear memory: the correlations of ridge readouts with u(t-k) for k = 1..``delays``, on test series.

    The state at time t includes u(t), so k = 1 is the input before the present one. A common choice of ``delays`` is 2N. The other
    arguments are those of `spiky_rl.reservoirs.narma.evaluate_narma`; the washout is at least ``delays``. Source: Jaeger (2001),
    short-term memory in echo state networks.
    """
    washout = max(washout, delays)
    length = math.ceil(max(train, test) / series)
    u = generator.uniform(-1.0, 1.0, (2 * series, washout + length, 1))
    states = drive(u)[:, washout:]
    past = np.stack([u[:, washout - k : u.shape[1] - k, 0] for k in range(1, delays + 1)], -1)
    predicted, target = predict_test_series(states, past, train, test, ridge)
    return MemoryCapacity(_compute_squared_correlation(predicted, target))


def _compute_squared_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared correlation of each column of two arrays [samples, columns]; 0 if a column is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    power = (a**2).sum(0) * (b**2).sum(0)
    return np.where(power > 0.0, (a * b).sum(0) ** 2 / np.where(power > 0.0, power, 1.0), 0.0)


def compute_lyapunov(
    drive: ReservoirFunction,
    generator: np.random.Generator,
    series: int = 20,
    washout: int = 100,
    steps: int = 20,
    perturbation: float = 1e-6,
) -> float:
    """Return the largest Lyapunov exponent per step: differences between states grow if it is positive and fade if it is negative.

    A drive always starts from rest, so trajectories cannot be renormalised as in Benettin's method. Instead each input runs twice, the
    second time with one perturbed step. The exponent is the mean logarithmic change per step of the distance between the two states,
    over ``steps`` steps or as long as the distance exceeds rounding errors. It is -inf if the states never differ.

    Args:
        washout: Steps before the perturbed step.
        steps: Steps after the perturbed step.
        perturbation: Change of the input; for a discontinuous reservoir it must be large enough to move a spike.
    """
    u = generator.uniform(-1.0, 1.0, (series, washout + steps + 1, 1))
    moved = u.copy()
    moved[:, washout] += perturbation
    states = drive(np.concatenate([u, moved]))
    reference, perturbed = states[:series, washout:], states[series:, washout:]
    size = np.linalg.norm(reference, axis=-1)
    distances = np.linalg.norm(perturbed.astype(np.float64) - reference, axis=-1)
    rounding_error = np.spacing(states.dtype.type(1.0)) * size
    differs = distances > RESOLUTION * rounding_error
    log_growth, duration = 0.0, 0
    for distance, different in zip(distances, differs, strict=True):
        times = np.flatnonzero(different)
        if len(times) > 1:
            first, last = times[0], times[-1]
            log_growth += float(np.log(distance[last] / distance[first]))
            duration += int(last - first)
    return log_growth / duration if duration else -np.inf


def compute_separation(
    drive: ReservoirFunction, generator: np.random.Generator, pairs: int = 50, steps: int = 100
) -> float:
    """Return the mean distance of the last states under two unrelated inputs, divided by the mean norm of a state.

    0 means that the reservoir does not distinguish inputs; about 1.4 means unrelated states. Source: Maass, Natschlaeger & Markram
    (2002), who do not divide by the norm.
    """
    states = drive(generator.uniform(-1.0, 1.0, (2 * pairs, steps, 1)))[:, -1].astype(np.float64)
    mean_norm = float(np.linalg.norm(states, axis=-1).mean())
    mean_distance = float(np.linalg.norm(states[:pairs] - states[pairs:], axis=-1).mean())
    return mean_distance / mean_norm if mean_norm > 0.0 else 0.0
