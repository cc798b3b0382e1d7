"""Better and worse are claimed only if the pairs support it: exact tests, corrected, on data with known truths."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from spiky_rl.experiments.analysis import comparisons
from spiky_rl.experiments.analysis.comparisons import (
    MAX_SEEDS,
    cohens_dz,
    compare_agents,
    compute_seeds_needed,
    find_fewest,
    holm,
    probability_of_improvement,
    sign_flip_test,
)
from spiky_rl.experiments.analysis.statistics import Interval, StatisticsError
from spiky_rl.experiments.design.planned import compute_min_p_value

ALPHA = 0.05
FAMILIES = 2000
"""Of comparisons, simulated: the standard error of a rate of 5 % is 0.5 %."""
FAST = 200
"""Resamples, for tests that do not check the interval."""


def seeded(scores):
    """Scores [tasks, seeds] by task and seed."""
    return {f"task{t}": dict(enumerate(map(float, row))) for t, row in enumerate(scores)}


def study(means, tasks, seeds, generator):
    """Normal scores of agents with these means."""
    return {agent: seeded(generator.normal(m, 1.0, (tasks, seeds))) for agent, m in means.items()}


def by_task(scores):
    return {str(t): row for t, row in enumerate(scores)}


def brute_force(differences):
    """The sign-flip test's p by its definition."""
    pooled = np.concatenate(differences)
    weights = np.concatenate([np.full(len(values), 1 / len(values)) for values in differences])
    signs = np.array(list(itertools.product([1, -1], repeat=len(pooled))))
    means = np.abs((signs * pooled) @ weights)
    return (means >= means[0] - 1e-12).mean()


def test_the_sign_flip_test_is_exact():
    assert sign_flip_test({"a": [0.1, 0.4, 0.2, 0.3, 0.9]}) == 2 / 2**5
    assert sign_flip_test({"a": [1.0, 1.0, -1.0]}) == 1.0
    generator = np.random.default_rng(0)
    for sizes in ((7,), (4, 3), (2, 5, 3)):
        for shift in (0.0, 0.7):
            differences = [generator.normal(shift, 1, n) for n in sizes]
            assert sign_flip_test(by_task(differences)) == pytest.approx(brute_force(differences), abs=1e-12)


def test_sign_patterns_of_equal_sums_are_equal_whatever_their_rounding():
    for differences in ([-3.0, 0.0, 3.0], [-1000.3, -999.5, 999.5, -0.2, 1000.1, -1000.2, 1000.1, 1000.0]):
        assert sign_flip_test({"a": differences}) == brute_force([np.array(differences)])


def test_many_pairs_are_tested_by_random_signs_near_the_exact_p(monkeypatch):
    differences = by_task([np.random.default_rng(1).normal(0.5, 1, 14)])
    exact = sign_flip_test(differences)
    monkeypatch.setattr(comparisons, "PERMUTATIONS", 10_000)
    drawn = sign_flip_test(differences)
    # four standard errors of a tail's share, doubled
    assert drawn == sign_flip_test(differences) == pytest.approx(exact, abs=8 * math.sqrt(exact / 2 / 10_000))


def test_differences_of_nothing_prove_nothing():
    assert sign_flip_test({"a": [0.0] * 6}) == 1.0


def test_holm_is_as_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert not holm([])
    drawn = np.random.default_rng(0).random((20, 7)) ** 3
    for p_values in drawn.tolist():
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("tasks, seeds", [(1, 8), (2, 4)])
def test_among_equal_agents_a_family_finds_a_difference_in_at_most_6_percent_of_studies(tasks, seeds):
    generator = np.random.default_rng(2)
    found = 0
    for _ in range(FAMILIES):
        baseline, *others = generator.beta(8, 2, (4, tasks, seeds))
        found += min(holm([sign_flip_test(by_task(other - baseline)) for other in others])) < ALPHA
    # below 1 % it would be the tests that are broken
    assert 0.01 <= found / FAMILIES <= 0.06


@pytest.mark.slow
def test_uncorrected_tests_would_be_caught():
    generator = np.random.default_rng(3)
    found = 0
    for _ in range(300):
        baseline, *others = generator.beta(8, 2, (8, 1, 8))
        found += min(sign_flip_test(by_task(other - baseline)) for other in others) < ALPHA
    assert found / 300 > 0.12


def test_verdicts_among_equal_agents_are_undecided():
    generator = np.random.default_rng(4)
    decided = 0
    for _ in range(100):
        family = compare_agents(study(dict.fromkeys("abc", 1.0), 1, 8, generator), "a", resamples=FAST)
        decided += any(comparison.verdict != "undecided" for comparison in family)
    # 10 % are 2.3 standard errors above 5 %
    assert decided <= 10


def test_a_real_difference_is_found_in_its_direction():
    generator = np.random.default_rng(5)
    verdicts = []
    for _ in range(100):
        family = compare_agents(
            study({"base": 0.0, "up": 2.0, "down": -2.0, "same": 0.0}, 1, 10, generator),
            "base",
            resamples=FAST,
        )
        verdicts.append([comparison.verdict for comparison in family])
    shares = [
        np.mean([v[i] == word for v in verdicts]) for i, word in enumerate(("better", "worse", "undecided"))
    ]
    assert min(shares[:2]) > 0.9 and shares[2] > 0.9
    assert not any(v[0] == "worse" or v[1] == "better" for v in verdicts)


def test_a_verdict_needs_the_corrected_test_and_the_interval():
    first = compare_agents(study({"base": 0.0, "up": 3.0}, 1, 10, np.random.default_rng(6)), "base")[0]
    assert first.verdict == "better" and first.corrected < ALPHA and first.difference.low > 0
    assert dataclasses.replace(first, corrected=ALPHA).verdict == "undecided"
    touching = Interval(3.0, 0.0, 6.0)
    assert dataclasses.replace(first, difference=touching).verdict == "undecided"
    assert dataclasses.replace(first, difference=Interval(-3.0, -6.0, -0.1)).verdict == "worse"


def test_five_seeds_and_many_comparisons_can_prove_nothing():
    assert compute_min_p_value(5) == 0.0625
    assert compute_min_p_value(5, 15) == pytest.approx(0.9375)
    assert compute_min_p_value(10, 3) == pytest.approx(3 * 2 / 1024)
    assert compute_min_p_value(1) == compute_min_p_value(0) == 1.0
    assert compute_min_p_value(40, 2) == pytest.approx(4 / (2**15 + 1))
    far_apart = study({str(i): 100.0 * i for i in range(6)}, 1, 5, np.random.default_rng(7))
    family = compare_agents(far_apart, resamples=FAST)
    assert len(family) == 15
    assert {round(c.corrected, 6) for c in family} == {round(c.min_p_value, 6) for c in family} == {0.9375}
    assert {c.verdict for c in family} == {"undecided"}


def test_the_lowest_p_of_random_signs_is_the_attainable_one():
    differences = {"a": np.arange(1.0, 41.0)}
    assert sign_flip_test(differences) == pytest.approx(compute_min_p_value(40))


def test_tasks_weigh_the_same_in_the_difference():
    base = {"a": dict.fromkeys(range(8), 0.0), "b": dict.fromkeys(range(2), 0.0)}
    other = {"a": dict.fromkeys(range(8), 1.0), "b": dict.fromkeys(range(2), 3.0)}
    assert compare_agents({"base": base, "other": other}, "base")[0].difference.estimate == 2.0


def test_scores_without_a_partner_are_left_out_and_counted():
    base = {"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 5.0}}
    other = {"a": {1: 2.5, 2: 3.5, 3: 99.0}, "c": {0: 7.0}}
    found = compare_agents({"base": base, "other": other}, "base")[0]
    assert (found.pairs, found.left_out) == (2, 4)
    assert found.difference.estimate == 0.5


def test_agents_without_a_common_score_stay_undecided():
    found = compare_agents({"base": {"a": {0: 1.0}}, "other": {"a": {1: 1.0}}}, "base")[0]
    assert (found.pairs, found.left_out, found.p_value, found.corrected) == (0, 2, 1.0, 1.0)
    assert found.verdict == "undecided" and found.seeds_needed is None


def test_one_pair_and_identical_scores_stay_undecided():
    one = compare_agents({"base": {"a": {0: 1.0}}, "other": {"a": {0: 9.0}}}, "base")[0]
    assert one.verdict == "undecided" and one.difference.low == -math.inf and math.isnan(one.effect)
    same = {"a": dict.fromkeys(range(10), 5.0)}
    none = compare_agents({"base": same, "other": same}, "base")[0]
    assert none.verdict == "undecided" and none.p_value == 1.0 and none.effect == 0.0
    assert none.improvement.estimate == 0.5 and none.seeds_needed is None


def test_neither_the_order_of_seeds_nor_that_of_tasks_matters():
    scores = study({"base": 0.0, "other": 0.5}, 2, 5, np.random.default_rng(8))
    turned = {
        agent: {task: dict(reversed(seeds.items())) for task, seeds in reversed(tasks.items())}
        for agent, tasks in scores.items()
    }
    assert compare_agents(turned, "base") == compare_agents(scores, "base")


def test_all_pairs_are_made_without_a_baseline_and_turn_with_their_sides():
    scores = study({"a": 0.0, "b": 1.0, "c": 2.0}, 1, 8, np.random.default_rng(9))
    family = compare_agents(scores)
    assert [(c.agent, c.baseline) for c in family] == [("b", "a"), ("c", "a"), ("c", "b")]
    turned = compare_agents(dict(reversed(scores.items())))
    for one, other in zip(family, reversed(turned), strict=True):
        assert (one.agent, one.baseline) == (other.baseline, other.agent)
        assert one.p_value == other.p_value and one.corrected == other.corrected
        assert one.effect == pytest.approx(-other.effect)
        assert one.improvement.low == pytest.approx(1 - other.improvement.high)


def test_what_is_no_score_is_named_by_agent_and_task():
    with pytest.raises(StatisticsError, match="lif_ppo, ant: nan given"):
        compare_agents({"mlp_ppo": {"ant": {0: 1.0}}, "lif_ppo": {"ant": {0: math.nan}}}, "mlp_ppo")
    with pytest.raises(StatisticsError, match="'mlp' given; allowed: mlp_ppo; did you mean 'mlp_ppo'"):
        compare_agents({"mlp_ppo": {"ant": {0: 1.0}}}, "mlp")


def test_the_standardised_difference_is_as_by_hand():
    # mean 2, deviation 1, two degrees of freedom: Hedges' correction is 1 / sqrt(pi)
    assert cohens_dz({"a": [1.0, 2.0, 3.0]}) == pytest.approx(2 / math.sqrt(math.pi))
    # the tasks' own means are no noise; 1 - 3 / (4 * 18 - 1) is its usual approximation
    values = np.random.default_rng(10).normal(size=(2, 10))
    values = (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, ddof=1, keepdims=True)
    assert cohens_dz({"a": values[0] + 1, "b": values[1] + 3}) == pytest.approx(2 * (1 - 3 / 71), abs=1e-3)
    assert cohens_dz({"a": [0.3] * 4}) == math.inf
    assert cohens_dz({"a": [-0.1] * 4}) == -math.inf
    assert math.isnan(cohens_dz({"a": [0.3, 0.5]}))


def test_the_standardised_difference_is_unbiased_where_cohens_is_not():
    draws = np.random.default_rng(11).normal(1.0, 1.0, (4000, 5))
    corrected = np.mean([cohens_dz({"a": row}) for row in draws])
    # one standard error is 0.01; uncorrected it is 1.25
    assert corrected == pytest.approx(1.0, abs=0.04)


def test_the_probability_of_improvement_is_rliables():
    assert probability_of_improvement({"a": [1.0, 2.0, 3.0]}, {"a": [2.0, 0.0]}).estimate == pytest.approx(
        4.5 / 6
    )
    generator = np.random.default_rng(12)
    first, second = generator.integers(6, size=(2, 3, 7)).astype(float)
    expected = np.mean(
        [np.asarray(stats.mannwhitneyu(x, y))[0] / 49 for x, y in zip(first, second, strict=True)]
    )
    assert probability_of_improvement(by_task(first), by_task(second)).estimate == pytest.approx(expected)


def test_the_better_half_of_few_runs_does_not_make_it_certain():
    found = probability_of_improvement({"a": [2.0, 3.0, 4.0]}, {"a": [0.0, 1.0, 1.5]})
    assert found.estimate == found.high == 1.0
    assert 0.4 < found.low < 0.7
    turned = probability_of_improvement({"a": [0.0, 1.0, 1.5]}, {"a": [2.0, 3.0, 4.0]})
    assert (turned.low, turned.high) == pytest.approx((0.0, 1 - found.low))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seeds", [5, 10])
def test_the_probability_of_improvement_lies_in_its_interval_as_often_as_it_says(shift, seeds):
    generator = np.random.default_rng(13)
    truth, hits = stats.norm.cdf(shift / math.sqrt(2)), []
    for first, second in generator.normal(size=(1000, 2, 1, seeds)):
        found = probability_of_improvement(by_task(first + shift), by_task(second))
        hits.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("effect", [0.3, 0.5, 0.8, -0.8])
def test_seeds_needed_are_statsmodels(effect):
    expected = math.ceil(TTestPower().solve_power(abs(effect), alpha=ALPHA, power=0.8))
    assert compute_seeds_needed(effect) == expected


def test_seeds_needed_are_never_fewer_than_a_test_can_use():
    for effect in (3.0, 5.0, 50.0, math.inf):
        assert compute_seeds_needed(effect) == 6 and compute_min_p_value(6) < ALPHA <= compute_min_p_value(5)
        assert compute_seeds_needed(effect, tasks=2) == 3
        assert compute_seeds_needed(effect, comparisons=15) == 10
        assert compute_seeds_needed(effect, comparisons=820) is None, "its sampled p-values stay above"


def test_a_number_of_seeds_is_found_up_to_the_largest_one():
    for least in (7, 800_000, MAX_SEEDS):
        assert find_fewest(6, least.__le__) == least
    assert find_fewest(6, MAX_SEEDS.__lt__) is None


def test_no_number_of_seeds_finds_nothing():
    for effect in (0.0, math.nan, 1e-6):
        assert compute_seeds_needed(effect) is None


@pytest.mark.slow
def test_so_many_seeds_find_the_difference_as_often_as_planned():
    seeds, generator = compute_seeds_needed(1.0), np.random.default_rng(14)
    assert seeds == 10
    found = np.mean([sign_flip_test({"a": row}) < ALPHA for row in generator.normal(1.0, 1.0, (500, seeds))])
    # two standard errors of 500 below the 80 % planned, and the test's own steps
    assert 0.75 <= found <= 0.88
