"""Task-independent measures of a reservoir: ranks, memory, separation, growth of perturbations.

Every measure takes a `Drive`: inputs [series, time, channels] -> states [series, time, N], each series from rest. Inputs
are uniform in [-1, 1] unless a measure says otherwise; `standardize_drive` adapts a reservoir that expects something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiky_rl.reservoirs.echo_state import Drive
from spiky_rl.reservoirs.regression import ridge_regression, stack_series

ENERGY = 0.99
"""Share of the sum of all singular values that a matrix of its rank holds."""
FLOOR = 0.1
"""Squared correlations below this are what a finite sample gives to chance."""
RESOLUTION = 100.0
"""Distances below so many rounding errors of the states are no distances."""


@dataclass(frozen=True)
class StateRank:
    """Rank of a matrix of states."""

    value: int
    size: int
    """N: what the rank is at most."""

    @property
    def fraction(self) -> float:
        """Rank / N."""
        return self.value / self.size


@dataclass(frozen=True)
class MemoryCapacity:
    """How much of the past input a linear readout recalls."""

    correlations: np.ndarray
    """[delays]: squared correlation on the test series of readout and input k = 1, 2, ... steps ago."""

    @property
    def total(self) -> float:
        """The capacity: sum of what lies above `FLOOR`. At most N."""
        return float(self.correlations[self.correlations >= FLOOR].sum())


def standardize_drive(drive: Drive, low: float, high: float) -> Drive:
    """The ``drive`` for inputs uniform from ``low`` to ``high``, which it then gets with mean 0 and variance 1."""
    mean, deviation = 0.5 * (low + high), (high - low) / np.sqrt(12.0)
    return lambda u: drive((u - mean) / deviation)


def compute_rank(states: np.ndarray) -> StateRank:
    """Numerical rank of the ``states`` [samples, N]: the fewest singular values that sum to 99 % of them all."""
    s = np.linalg.svd(np.asarray(states, np.float64), compute_uv=False)
    total = s.sum()
    value = int(np.searchsorted(np.cumsum(s), ENERGY * total) + 1) if total > 0.0 else 0
    return StateRank(value, states.shape[-1])


def kernel_rank(
    drive: Drive, generator: np.random.Generator, series: int = 100, steps: int = 100
) -> StateRank:
    """Rank of the last states under different inputs: into how many directions the reservoir tells them apart.

    Source: Legenstein & Maass (2007), as linear separation.

    Args:
        drive: The reservoir.
        generator: Random generator of the inputs.
        series: How many inputs: a bound of what is found; take at least N.
        steps: Length of each.
    """
    return compute_rank(drive(generator.uniform(-1.0, 1.0, (series, steps, 1)))[:, -1])


def generalisation_rank(
    drive: Drive,
    generator: np.random.Generator,
    series: int = 100,
    steps: int = 100,
    shared: int = 50,
) -> StateRank:
    """Rank of the last states under inputs that differ in the past alone and agree in their last steps.

    Low is good: what ought to be one class spans few directions. Source: Legenstein & Maass (2007).

    Args:
        drive: The reservoir, of one input; this and the next three as in `kernel_rank`.
        generator: Random generator of the inputs.
        series: How many.
        steps: Length of each.
        shared: How many of the last steps agree.
    """
    u = generator.uniform(-1.0, 1.0, (series, steps, 1))
    u[:, steps - shared :] = u[:1, steps - shared :]
    return compute_rank(drive(u)[:, -1])


def memory_capacity(
    drive: Drive,
    generator: np.random.Generator,
    delays: int,
    train: int = 2000,
    test: int = 2000,
    washout: int = 200,
    series: int = 1,
    ridge: float | None = None,
) -> MemoryCapacity:
    """Linear memory: how well ridge readouts recall u(t-k) for k = 1..``delays``, on series of their own.

    States at time t have seen u(t), so k = 1 is the input before the present one. A common choice of ``delays`` is 2N.
    ``drive``, ``generator``, ``train``, ``test``, ``washout``, ``series`` and ``ridge`` are as in `spiky_rl.reservoirs.narma.evaluate_narma`;
    the washout is at least ``delays``. Source: Jaeger (2001), short-term memory in echo state networks.
    """
    washout, longest = max(washout, delays), -(-max(train, test) // series)
    u = generator.uniform(-1.0, 1.0, (2 * series, washout + longest, 1))
    states = drive(u)[:, washout:]
    past = np.stack([u[:, washout - k : u.shape[1] - k, 0] for k in range(1, delays + 1)], -1)
    readout = ridge_regression(
        stack_series(states[:series], train), stack_series(past[:series], train), ridge
    )
    estimate = readout(stack_series(states[series:], test))
    return MemoryCapacity(_squared_correlation(estimate, stack_series(past[series:], test)))


def _squared_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared correlation of the columns of two [samples, columns]; 0 where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    power = (a**2).sum(0) * (b**2).sum(0)
    return np.where(power > 0.0, (a * b).sum(0) ** 2 / np.where(power > 0.0, power, 1.0), 0.0)


def compute_lyapunov(
    drive: Drive,
    generator: np.random.Generator,
    series: int = 20,
    washout: int = 100,
    steps: int = 20,
    perturbation: float = 1e-6,
) -> float:
    """Largest Lyapunov exponent per step, by the growth of a perturbation: above 0 differences grow, below they fade.

    A drive always begins at rest, so trajectories cannot be renormalised as Benettin's are. Each input runs twice instead, the
    second time perturbed in one step; the exponent is the mean logarithm by which the distance of the two states changes a step,
    over ``steps`` steps or as long as it is more than rounding. It is -inf where no state ever differs.

    Args:
        drive: The reservoir.
        generator: Random generator of the inputs.
        series: How many of them.
        washout: Steps before the perturbed one.
        steps: Steps after it.
        perturbation: What is added to it. Discontinuous reservoirs need one that can move a spike.
    """
    u = generator.uniform(-1.0, 1.0, (series, washout + steps + 1, 1))
    moved = u.copy()
    moved[:, washout] += perturbation
    states = drive(np.concatenate([u, moved]))
    a, b = states[:series, washout:], states[series:, washout:]
    size = np.linalg.norm(a, axis=-1)
    distance = np.linalg.norm(b.astype(np.float64) - a, axis=-1)
    felt = distance > RESOLUTION * np.spacing(states.dtype.type(1.0)) * size
    logarithms, lasted = 0.0, 0
    for d, f in zip(distance, felt, strict=True):
        times = np.flatnonzero(f)
        if len(times) > 1:
            logarithms += float(np.log(d[times[-1]] / d[times[0]]))
            lasted += int(times[-1] - times[0])
    return logarithms / lasted if lasted else -np.inf


def compute_separation(
    drive: Drive, generator: np.random.Generator, pairs: int = 50, steps: int = 100
) -> float:
    """Mean distance of the last states under two unrelated inputs, in mean lengths of a state.

    0: the reservoir cannot tell inputs apart; about 1.4: their states have nothing in common. Source: Maass, Natschlaeger &
    Markram (2002), whose distance is not divided by the states' length.

    Args:
        drive: The reservoir.
        generator: Random generator of the inputs.
        pairs: How many pairs of them.
        steps: Length of each.
    """
    states = drive(generator.uniform(-1.0, 1.0, (2 * pairs, steps, 1)))[:, -1].astype(np.float64)
    length = float(np.linalg.norm(states, axis=-1).mean())
    apart = float(np.linalg.norm(states[:pairs] - states[pairs:], axis=-1).mean())
    return apart / length if length > 0.0 else 0.0
