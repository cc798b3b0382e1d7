"""Estimates as rliable defines them, and intervals that hold simulated truths as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from spiky_rl.config.registry import UserError
from spiky_rl.experiments.analysis.measures import compute_learning_curve
from spiky_rl.experiments.analysis.statistics import (
    aggregate_interval,
    compute_intervals,
    interquartile_mean,
    mean,
    normalise,
    performance_profile,
)
from spiky_rl.experiments.run.records import CurveRecord

STUDIES = 2000
"""Simulated for a coverage: its standard error is 0.5 %."""
RESAMPLES = 1000
LOW, HIGH = 0.92, 0.98
"""What a 95 % interval has to keep within."""


def normal(generator, size):
    return generator.standard_normal(size)


def below_a_ceiling(generator, size):
    """Scores of up to 1, most of them near it: skewness -0.92."""
    return generator.beta(8, 2, size)


DRAWN = {"normal": normal, "below a ceiling": below_a_ceiling}
LEVELS = (0.0, 0.5, 1.0)
"""Of the tasks, in standard deviations of a task."""
STATISTICS = {"iqm": interquartile_mean, "mean": mean}


def studies(distribution, tasks, seeds, generator, number=STUDIES):
    """Simulated scores [number, tasks * seeds]."""
    draw = DRAWN[distribution]
    spread = draw(np.random.default_rng(0), 100_000).std()
    scores = draw(generator, (number, tasks, seeds)) + spread * np.array(LEVELS[:tasks])[:, None]
    return scores.reshape(number, tasks * seeds)


def covered(truth, low, high):
    """The share of intervals that hold the truth."""
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("distribution", DRAWN)
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.slow
def test_intervals_of_95_percent_hold_the_truth_in_92_to_98_percent_of_studies(
    distribution, tasks, seeds, statistic
):
    generator = np.random.default_rng(1)
    truth = STATISTICS[statistic](studies(distribution, tasks, 1_000_000, generator, 1)[0])
    scores = studies(distribution, tasks, seeds, generator)
    _, low, high = compute_intervals(scores, [seeds] * tasks, STATISTICS[statistic], resamples=RESAMPLES)
    assert LOW <= covered(truth, low, high) <= HIGH


@pytest.mark.parametrize("sizes", [pytest.param([5, 8], marks=pytest.mark.slow), [3, 10, 6]])
def test_so_do_they_where_cells_have_failed(sizes):
    generator = np.random.default_rng(2)
    scores = np.concatenate(
        [generator.normal(0.1 * t, 1, (STUDIES // 2, n)) for t, n in enumerate(sizes)], axis=1
    )
    truth = 0.1 * (len(sizes) - 1) / 2
    for statistic in STATISTICS.values():
        _, low, high = compute_intervals(scores, sizes, statistic, resamples=RESAMPLES)
        assert LOW <= covered(truth, low, high) <= HIGH


def test_a_plain_percentile_interval_would_be_caught():
    generator = np.random.default_rng(3)
    scores = studies("normal", 1, 5, generator)
    resampled = scores[:, generator.integers(5, size=(RESAMPLES, 5))].mean(axis=2)
    assert covered(0.0, *np.quantile(resampled, [0.025, 0.975], axis=1)) < 0.88


def test_other_levels_hold_what_they_promise():
    scores = studies("normal", 2, 10, np.random.default_rng(4))
    for level, tolerance in ((0.8, 0.03), (0.99, 0.01)):
        _, low, high = compute_intervals(scores, [10, 10], mean, level, RESAMPLES)
        assert covered(0.25, low, high) == pytest.approx(level, abs=tolerance)


def test_the_interquartile_mean_is_rliables():
    assert interquartile_mean([8, 1, 2, 7, 3, 6, 4, 5]) == 4.5
    # of ten the two lowest and two highest go, of five one and one, of three none
    assert interquartile_mean([0, 0, 3, 4, 5, 6, 7, 8, 100, 100]) == 5.5
    assert interquartile_mean([-50, 1, 2, 3, 50]) == 2
    assert interquartile_mean([0, 0, 3]) == 1
    for runs in range(1, 24):
        scores = np.random.default_rng(runs).normal(size=(3, runs))
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=1), abs=1e-12)


def test_equal_weights_change_nothing():
    for runs in range(1, 24):
        scores, weights = np.random.default_rng(runs).normal(size=(3, runs)), np.full(runs, 0.3)
        assert interquartile_mean(scores, weights) == pytest.approx(interquartile_mean(scores), abs=1e-12)


def test_a_task_weighs_the_same_however_many_of_its_cells_failed():
    scores = {"easy": [1.0] * 8, "hard": [0.0] * 2}
    for statistic in STATISTICS.values():
        assert aggregate_interval(scores, statistic).estimate == 0.5
    # a third task between them: a quarter of all weight is three quarters of a task's, and what is only partly within is kept
    scores = {"easy": [1.0] * 4, "hard": [0.0] * 8, "middle": [0.5] * 2}
    assert aggregate_interval(scores).estimate == pytest.approx(0.5)


def test_the_mean_is_rliables_mean_of_means():
    scores = {"a": [1.0, 2.0, 6.0], "b": [10.0, 20.0]}
    assert aggregate_interval(scores, mean).estimate == pytest.approx((3 + 15) / 2)


def test_normalised_scores_are_0_for_random_actions_and_1_for_the_reference():
    scores = {"a": {0: 1.0, 1: 3.0, 2: 5.0}, "b": {7: 10.0}}
    normalised = normalise(scores, {"a": 1.0, "b": -10.0}, {"a": 3.0, "b": 30.0})
    assert normalised == {"a": {0: 0.0, 1: 1.0, 2: 2.0}, "b": {7: 0.5}}


def test_neither_the_order_of_seeds_nor_that_of_tasks_matters():
    generator = np.random.default_rng(5)
    scores = {task: generator.normal(size=n) for task, n in (("a", 6), ("b", 6), ("c", 4))}
    turned = {task: scores[task][::-1] for task in "cab"}
    assert aggregate_interval(turned) == aggregate_interval(scores)
    two = {task: scores[task] for task in "ab"}
    assert aggregate_interval(dict(reversed(two.items()))) == aggregate_interval(two)


def test_intervals_follow_a_change_of_units():
    scores = np.random.default_rng(6).normal(size=(20, 10))
    once, scaled = compute_intervals(scores, [5, 5]), compute_intervals(1000 * scores - 7, [5, 5])
    for before, after in zip(once, scaled, strict=True):
        assert after == pytest.approx(1000 * before - 7, rel=1e-9)


def test_an_interval_is_the_same_again_and_nearly_that_of_many_more_resamples():
    scores = {"a": np.random.default_rng(7).normal(size=10)}
    first, again = aggregate_interval(scores), aggregate_interval(scores)
    more = aggregate_interval(scores, resamples=100_000)
    assert first == again != more
    # the error of 5,000 resamples, in standard deviations of a score
    assert more.low == pytest.approx(first.low, abs=0.1) and more.high == pytest.approx(first.high, abs=0.1)


def test_one_seed_says_nothing_of_others():
    found = aggregate_interval({"a": [3.0], "b": [1.0, 1.2, 0.8]})
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert not found.excludes(1e9)


def test_identical_scores_have_an_interval_of_no_width():
    for statistic in STATISTICS.values():
        for scores in ({"a": [0.1] * 5}, {"a": [0.1] * 3, "b": [0.7] * 7}):
            found = aggregate_interval(scores, statistic)
            assert (found.low, found.high) == pytest.approx((found.estimate, found.estimate), abs=1e-12)


@pytest.mark.parametrize(
    "scores, words",
    [
        ({"ant": [1.0, math.nan]}, "lif_ppo, ant: nan given"),
        ({"ant": [1.0], "humanoid": [math.inf]}, "lif_ppo, humanoid: inf given"),
        ({"ant": []}, "lif_ppo, ant: .* allowed: the scores of its seeds"),
        ({"ant": [[1.0, 2.0]]}, "lif_ppo, ant: .* allowed: the scores of its seeds"),
        ({}, "lif_ppo: there are no scores"),
    ],
)
def test_what_is_no_score_is_named_by_agent_and_task(scores, words):
    for function in (
        aggregate_interval,
        lambda scores, agent: performance_profile(scores, [0.0], agent=agent),
    ):
        with pytest.raises(UserError, match=words):
            function(scores, agent="lif_ppo")


def test_a_performance_profile_is_the_share_of_runs_above_averaged_over_tasks():
    band = performance_profile({"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0, 5.0]}, [0, 1, 2, 3, 9])
    assert band.estimate.tolist() == pytest.approx([1, (2 / 3 + 1) / 2, (1 / 3 + 1 / 4) / 2, 1 / 8, 0])
    assert (band.low >= 0).all() and (band.high <= 1).all()
    # three of three and four of four still leave room for a run that is not
    assert band.low[0] < 0.7 and band.high[0] == 1


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("seeds", [5, 10])
def test_profiles_hold_the_truth_as_often_at_an_average_threshold(tasks, seeds):
    generator = np.random.default_rng(8)
    thresholds = np.linspace(-2, 2.5, 40)
    truth = np.mean([stats.norm.sf(thresholds - level) for level in LEVELS[:tasks]], axis=0)
    hits = []
    for _ in range(300):
        scores = {str(t): generator.normal(level, 1, seeds) for t, level in enumerate(LEVELS[:tasks])}
        band = performance_profile(scores, thresholds)
        hits.append(covered(truth, band.low, band.high))
    # errors at neighbouring thresholds go together: as a standard error the mean of 300 has about 0.6 %
    assert LOW <= np.mean(hits) <= HIGH


def curve(steps, returns) -> CurveRecord:
    nothing = [None] * len(steps)
    values = {"seconds": steps, "operations": nothing, "firing_rate": nothing}
    return CurveRecord.check("", {"env_steps": steps, "return": returns, **values})


def test_a_learning_curve_is_the_statistic_at_each_step_with_its_interval():
    generator = np.random.default_rng(9)
    returns = generator.normal(size=(5, 9))
    band = compute_learning_curve([curve([100 * i for i in range(9)], each.tolist()) for each in returns])
    assert band is not None and band.at.tolist() == [100 * i for i in range(9)]
    for point in range(9):
        expected = aggregate_interval({"a": returns[:, point]})
        found = band.estimate[point], band.low[point], band.high[point]
        assert found == pytest.approx((expected.estimate, expected.low, expected.high))


def test_a_curve_says_nothing_before_its_first_episode_and_after_its_end():
    first, second = curve([10, 20, 30, 40], [None, 1.0, None, 3.0]), curve([10, 20, 30], [0.0, 3.0, 4.0])
    band = compute_learning_curve([first, second])
    assert band is not None and band.at.tolist() == pytest.approx([10, 10 + 20 / 3, 10 + 40 / 3, 30])
    for values in (band.estimate, band.low, band.high):
        assert np.isnan(values).tolist() == [True, True, False, False]
    # the gap at 30 lies between 1 and 3
    assert band.estimate[3] == 3.0


def test_a_run_without_any_episode_leaves_no_curve():
    assert compute_learning_curve([curve([1, 2], [None, None]), curve([1, 2], [0.0, 1.0])]) is None
