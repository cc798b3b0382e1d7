"""The coverage of intervals in reports is that of the simulation, and a study may see poor seeds or not."""

import numpy as np
import pytest
from scipy import stats

from spiky_rl.experiments.analysis.coverage import COVERAGE, FALL, SIZES, find_coverage
from spiky_rl.experiments.analysis.statistics import compute_intervals, interquartile_mean, mean
from spiky_rl.experiments.report.design import describe_coverage

STUDIES, RESAMPLES = 4000, 1000
"""Simulated studies of a number; resamples of each."""
POOR = {"no seed is poor": 0.0, "one seed in ten is poor": 0.1, "one seed in five is poor": 0.2}
"""Share of poor seeds, by description."""
STATISTICS = {"mean": mean, "interquartile mean": interquartile_mean}


def simulate(statistic: str, share: float, seeds: int) -> float:
    """Return the share of `STUDIES` studies whose 95 % interval contains the true value; ``share``: of poor seeds."""
    generator = np.random.default_rng((0, seeds, round(1000 * share)))
    poor = generator.random((STUDIES, seeds)) < share
    scores = generator.standard_normal((STUDIES, seeds)) - FALL * poor
    _, low, high = compute_intervals(scores, [seeds], STATISTICS[statistic], resamples=RESAMPLES)
    truth = compute_true_value(statistic, share)
    return float(((low <= truth) & (truth <= high)).mean())


def compute_true_value(statistic: str, share: float) -> float:
    """Return the true value of a ``statistic`` with that ``share`` of poor seeds."""
    if statistic == "mean":
        return -FALL * share
    at = np.linspace(-FALL - 8.0, 8.0, 200_001)
    below = (1.0 - share) * stats.norm.cdf(at) + share * stats.norm.cdf(at + FALL)
    middle = (np.arange(100_000) + 0.5) / 200_000 + 0.25
    return float(np.interp(middle, below, at).mean())


def test_a_figure_of_the_table_is_simulated_again():
    words, seeds = "one seed in five is poor", 5
    assert find_coverage("mean", seeds)[words] == round(100 * simulate("mean", POOR[words], seeds), 1)


def test_most_intervals_of_few_seeds_that_miss_the_truth_saw_no_poor_seed():
    share, seeds = POOR["one seed in five is poor"], 5
    unseen = (1 - share) ** seeds
    assert 100 * (1 - unseen) == pytest.approx(
        COVERAGE["mean"]["one seed in five is poor"][SIZES.index(seeds)], abs=5.0
    )


@pytest.mark.slow  # a minute
def test_the_whole_table_is_simulated_again():
    assert COVERAGE == {
        statistic: {
            words: tuple(round(100 * simulate(statistic, share, seeds), 1) for seeds in SIZES)
            for words, share in POOR.items()
        }
        for statistic in STATISTICS
    }


def test_the_table_is_whole_and_a_study_of_many_seeds_has_the_last_figure():
    assert COVERAGE.keys() == STATISTICS.keys()
    assert all(own.keys() == POOR.keys() for own in COVERAGE.values())
    assert all(len(shares) == len(SIZES) for own in COVERAGE.values() for shares in own.values())
    assert find_coverage("mean", 50) == find_coverage("mean", SIZES[-1])


@pytest.mark.parametrize("share", POOR.values())
def test_the_true_values_are_those_of_a_large_sample(share):
    generator = np.random.default_rng(0)
    scores = generator.standard_normal(400_000) - FALL * (generator.random(400_000) < share)
    assert compute_true_value("mean", share) == pytest.approx(scores.mean(), abs=0.03)
    assert compute_true_value("interquartile mean", share) == pytest.approx(
        stats.trim_mean(scores, 0.25), abs=0.01
    )


def test_a_report_tells_the_coverage_at_the_study_s_number_of_seeds():
    assert "over 2 seeds" in describe_coverage(2)
    assert "over 5 seeds" in describe_coverage(5)
    assert "71 % if one seed in five is poor" in describe_coverage(5)
    assert "over 20 seeds" in describe_coverage(25) and describe_coverage(1) == ""
