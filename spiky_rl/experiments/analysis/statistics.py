"""Estimates and intervals for the scores of a few seeds on a few tasks.

The scores of an agent are a mapping from task to its seeds' scores. Tasks are strata: a repetition of the study would have the same tasks
and other seeds. All tasks weigh the same, however many of their seeds failed. Intervals hold for these tasks, not for tasks in general.

Source: Agarwal et al. (2021), arXiv 2108.13264, and their library rliable, for the estimates. Its percentile intervals contain the true
mean in 82 to 87 % of studies with 5 seeds instead of 95 %; the intervals below are corrected for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from spiky_rl.config.registry import UserError

type Scores = Mapping[str, ArrayLike]
"""Scores of the seeds by task: anything that becomes an array [seeds]."""
type Statistic = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Maps values [..., runs] and the runs' weights, None for equal ones, to [...]."""

LEVEL, RESAMPLES, TRIMMED = 0.95, 5000, 0.25
"""Confidence of intervals; resamples of a bootstrap; share of the runs that an interquartile mean leaves out at either end."""
CHUNK = 4_000_000
"""Maximum number of values in memory while resampling."""


class StatisticsError(UserError):
    """Scores that allow no statistic."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float
    """The bounds are infinite if a task has one seed, which says nothing of others; nan without seeds."""

    def excludes(self, value: float) -> bool:
        """Return whether ``value`` lies outside; a bound lies inside, and nan bounds exclude nothing."""
        return value < self.low or value > self.high


@dataclass(frozen=True)
class Band:
    """Estimates along an axis. Bounds hold point by point, not for the whole line."""

    at: np.ndarray
    """Thresholds or environment steps."""
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """nan, like the other two, if a run has no value."""


def check_scores(scores: Scores, agent: str) -> dict[str, np.ndarray]:
    """Return the ``scores`` as sorted arrays in the order of task names. Raises StatisticsError that names ``agent`` and task."""
    if not scores:
        raise StatisticsError(f"{agent}: there are no scores of any task")
    arrays = {}
    for task in sorted(scores):
        values = np.asarray(scores[task], dtype=float)
        if values.ndim != 1 or not values.size:
            raise StatisticsError(
                f"{agent}, {task}: {scores[task]!r} given; allowed: the scores of its seeds"
            )
        if not np.isfinite(values).all():
            wrong = values[~np.isfinite(values)][0]
            raise StatisticsError(
                f"{agent}, {task}: {wrong} given; allowed: finite scores; leave out seeds without one"
            )
        arrays[task] = np.sort(values)
    return arrays


def drop_seed_names(scores: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    """Return the ``scores`` as lists, by task."""
    return {task: list(seeds.values()) for task, seeds in scores.items()}


def pair_scores(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the seeds that ``first`` and ``second`` have in common, in the order of seeds."""
    seeds = sorted(first.keys() & second.keys())
    return np.array([first[seed] for seed in seeds]), np.array([second[seed] for seed in seeds])


def normalise(
    scores: Mapping[str, Mapping[int, float]], random: Mapping[str, float], reference: Mapping[str, float]
) -> dict[str, dict[int, float]]:
    """Return (x - random) / (reference - random) for each task: 0 is a random policy's score, 1 the reference's, which has to be above it.

    Both anchors count as exact: intervals of normalised scores ignore their uncertainty.
    """
    return {
        task: {
            seed: (score - random[task]) / (reference[task] - random[task]) for seed, score in seeds.items()
        }
        for task, seeds in scores.items()
    }


def mean(values: ArrayLike, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of ``values`` [..., runs]; ``weights`` [runs] that are equal within a task give rliable's mean of task means."""
    return np.average(np.asarray(values, dtype=float), axis=-1, weights=weights)


def interquartile_mean(values: ArrayLike, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the middle half of ``values`` [..., runs], as rliable does: it cuts a quarter of the runs, rounded down, at either end.

    With ``weights`` [runs] it cuts the runs with at most a quarter of the weight, which is the same for equal weights.
    """
    values = np.asarray(values, dtype=float)
    if weights is None:
        runs = values.shape[-1]
        cut = int(TRIMMED * runs)
        return np.sort(values, axis=-1)[..., cut : runs - cut].mean(axis=-1)
    order = np.argsort(values, axis=-1)
    values, share = np.take_along_axis(values, order, axis=-1), (weights / np.sum(weights))[order]
    below = np.cumsum(share, axis=-1)
    above = 1 - below + share
    # the tolerance is for sums of shares that are a quarter up to rounding
    inner = np.where((below > TRIMMED + 1e-9) & (above > TRIMMED + 1e-9), share, 0.0)
    return (values * inner).sum(axis=-1) / inner.sum(axis=-1)


def aggregate_interval(
    scores: Scores,
    statistic: Statistic = interquartile_mean,
    *,
    agent: str = "scores",
    resamples: int = RESAMPLES,
) -> Interval:
    """Return a ``statistic`` of an agent's runs with a stratified bootstrap interval over the seeds of each task: see `compute_intervals`.

    Equal scores give an interval of width zero: a bootstrap finds nothing that the sample does not show. ``agent`` is its name in messages.
    """
    checked = check_scores(scores, agent)
    sizes = [len(values) for values in checked.values()]
    pooled = np.concatenate(list(checked.values()))
    estimate, low, high = compute_intervals(pooled, sizes, statistic, LEVEL, resamples)
    return Interval(float(estimate), float(low), float(high))


def compute_intervals(
    values: np.ndarray,
    sizes: Sequence[int],
    statistic: Statistic = interquartile_mean,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return estimate, low and high [...] of many samples [..., runs]; the runs are ordered by task, ``sizes`` of them for each.

    The interval is Efron's (1987) BCa, which corrects for bias and skew, with its deviations from the estimate widened by
    sqrt(n / (n - 1)) t / z. That is Hesterberg's (2015, 10.1080/00031305.2015.1089789) correction of the bootstrap's narrowness at n seeds,
    applied to deviations instead of quantiles, because no quantile of 5 seeds' resamples lies outside their range. t has the degrees of
    freedom of Welch and Satterthwaite; each run's influence is its count's covariance with the resampled statistic (Efron 2014).

    Simulated with 5, 10 and 20 seeds on 1 to 3 tasks, 95 % intervals contain the true value in 94 to 97 % of studies with normal scores, and
    in 93 to 97 % if most scores are near a ceiling (skewness -0.9). They are too narrow for the mean of few seeds with a long tail: 92 % with
    5 seeds of one task at skewness -1.4, 90 % at -2, and 88 to 91 % if one run in ten fails by five standard deviations, because many
    studies see no such run (interquartile mean: 96 to 97 %; more in `coverage.COVERAGE`). The interquartile mean of 5 seeds on tasks with
    levels many standard deviations apart reaches 90 to 94 %, because whole runs are cut: a fifth instead of a quarter.
    """
    values, sizes = np.asarray(values, dtype=float), list(sizes)
    # every task weighs the same; None: so does every run
    weights = None if len(set(sizes)) == 1 else np.repeat(1 / np.array(sizes), sizes)
    estimate = np.asarray(statistic(values, weights))
    if min(sizes) == 1:
        return estimate, np.full_like(estimate, -np.inf), np.full_like(estimate, np.inf)
    rows, flat = values.reshape(-1, values.shape[-1]), estimate.reshape(-1)
    index = _draw_resamples(sizes, resamples)
    # how often each resample drew each run, minus 1, the expected number
    places = index + np.arange(resamples)[:, None] * index.shape[1]
    counts = np.bincount(places.ravel(), minlength=places.size).reshape(index.shape) - 1.0
    bounds = np.empty((2, len(rows)))
    step = max(1, CHUNK // index.size)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        repeated = np.asarray(statistic(rows[part][:, index], weights))
        influence = (repeated - repeated.mean(axis=1, keepdims=True)) @ counts / resamples
        bounds[:, part] = _compute_widened_bca(flat[part], repeated, influence, sizes, level)
    return estimate, bounds[0].reshape(estimate.shape), bounds[1].reshape(estimate.shape)


def _draw_resamples(sizes: Sequence[int], resamples: int) -> np.ndarray:
    """Return the runs of each resample [resamples, runs]: as many of each task as it has."""
    generator = np.random.default_rng(0)
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        generator.integers(n, size=(resamples, n)) + start for n, start in zip(sizes, starts, strict=True)
    ]
    return np.concatenate(drawn, axis=1)


def _compute_widened_bca(
    estimate: np.ndarray, repeated: np.ndarray, influence: np.ndarray, sizes: Sequence[int], level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds [samples] from estimates [samples], resampled ones [samples, resamples] and influences [samples, runs]."""
    resamples = repeated.shape[1]
    ordered = np.sort(repeated, axis=1)
    # resamples equal to the estimate up to rounding count half on either side
    near = 1e-12 * np.maximum(1e-300, np.abs(estimate))[:, None]
    less, more = repeated < estimate[:, None] - near, repeated > estimate[:, None] + near
    below = 0.5 + (less.mean(axis=1) - more.mean(axis=1)) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))

    # without variation the bounds are the estimate, whatever the influences are
    influence = np.where((influence**2).sum(axis=1, keepdims=True) > 0, influence, 1.0)
    squares = (influence**2).sum(axis=1)
    acceleration = (influence**3).sum(axis=1) / (6 * squares**1.5)
    n = np.array(sizes)
    variance = np.add.reduceat(influence**2, np.cumsum([0, *sizes[:-1]]), axis=1) * n / (n - 1)
    total = variance.sum(axis=1)
    freedom = total**2 / (variance**2 / (n - 1)).sum(axis=1)

    z = stats.norm.ppf(0.5 + level / 2)
    stretch = np.sqrt(total / squares) * stats.t.ppf(0.5 + level / 2, freedom) / z
    bounds = []
    for side in (-z, z):
        moved = bias + (bias + side) / (1 - acceleration * (bias + side))
        place = stats.norm.cdf(moved) * (resamples - 1)
        first = np.minimum(place.astype(int), resamples - 2)
        pair = np.take_along_axis(ordered, first[:, None] + np.arange(2), axis=1)
        quantile = pair[:, 0] + (place - first) * (pair[:, 1] - pair[:, 0])
        bounds.append(estimate + stretch * (quantile - estimate))
    return np.minimum(bounds[0], estimate), np.maximum(bounds[1], estimate)


def performance_profile(
    scores: Scores, thresholds: Sequence[float] | np.ndarray, *, agent: str = "scores"
) -> Band:
    """Return the share of an agent's runs with a score above each of the ``thresholds``, averaged over tasks.

    Bounds are Wilson's for each task's share, combined by `combine_intervals`. A bootstrap's interval contains the true value in 66 % of
    cases with one task and 5 seeds, because resampled runs that are all above a threshold stay above it; these in 96 %, 90 % at the worst.
    """
    from statsmodels.stats.proportion import proportion_confint

    at = np.asarray(thresholds, dtype=float)
    checked = check_scores(scores, agent)
    above = [(values > at[:, None]).sum(axis=1) for values in checked.values()]
    sizes = [len(values) for values in checked.values()]
    shares = np.array([count / n for count, n in zip(above, sizes, strict=True)])
    pairs = zip(above, sizes, strict=True)
    bounds = np.array([proportion_confint(count, n, 1 - LEVEL, method="wilson") for count, n in pairs])
    low, high = combine_intervals(shares, bounds[:, 0], bounds[:, 1])
    low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)  # rounding
    return Band(at, shares.mean(axis=0), low, high)


def combine_intervals(
    estimates: np.ndarray, lows: np.ndarray, highs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the mean over tasks from estimates and bounds of each task [tasks, ...].

    The method is Zou and Donner's (2008) variance recovery (MOVER).
    """
    middle, tasks = estimates.mean(axis=0), len(estimates)
    below = np.sqrt(((estimates - lows) ** 2).sum(axis=0)) / tasks
    above = np.sqrt(((highs - estimates) ** 2).sum(axis=0)) / tasks
    return middle - below, middle + above
