"""Measures of reservoirs: on systems whose values are known, against the literature's, and against ReservoirPy."""

import math

import numpy as np
import pytest

from spiky_rl.reservoirs import memory as reservoir
from spiky_rl.reservoirs import narma
from spiky_rl.reservoirs.echo_state import DENSITY, draw_echo_state, echo_state, has_cycle, scale_weights
from spiky_rl.reservoirs.regression import compute_nmse, fit_ridge_readout

SIZE = 12
DIVERGING = 75
"""A seed whose first draw of 2200 steps runs away, as 1.3 % do."""


def generator(seed=0):
    return np.random.default_rng(seed)


def linear(weights, input_weights):
    return echo_state(weights, input_weights, activation=lambda x: x)


def delay_line(size):
    """Node i holds u(t - i - 1): the input waits one step before the first."""

    def drive(u):
        return np.stack([np.pad(u[:, :-k, 0], ((0, 0), (k, 0))) for k in range(1, size + 1)], -1)

    return drive


def ring(size, radius):
    """A linear cycle: rows of a permutation, times the spectral radius."""
    return linear(radius * np.roll(np.eye(size), 1, 1), np.eye(size)[:1])


def test_a_delay_line_of_n_nodes_recalls_exactly_n_steps():
    found = reservoir.compute_memory_capacity(delay_line(SIZE), generator(), 2 * SIZE)
    assert found.correlations[:SIZE] == pytest.approx(1.0, abs=1e-9)
    assert (found.correlations[SIZE:] < 0.01).all()
    assert found.total == pytest.approx(SIZE, abs=1e-6)


def test_a_linear_cycle_has_a_memory_of_its_size_of_which_the_present_input_takes_one():
    found = reservoir.compute_memory_capacity(ring(SIZE, 0.7), generator(), 3 * SIZE, ridge=0.0)
    # node i holds the inputs i, i + N, i + 2N, ... steps ago, each weaker by radius^N
    power = 0.7 ** (2 * SIZE)
    recalled = [(1 - power) * power ** (k // SIZE) for k in range(1, 3 * SIZE + 1)]
    assert found.correlations == pytest.approx(recalled, abs=0.02)
    assert SIZE - 1.1 < found.total <= SIZE


def test_what_chance_correlates_is_no_memory():
    noise = generator(5)
    found = reservoir.compute_memory_capacity(
        lambda u: noise.normal(size=(*u.shape[:2], SIZE)), generator(), 50
    )
    assert found.total == 0.0 < found.correlations.sum()


@pytest.mark.parametrize(("radius", "expected"), [(0.5, 11.5), (0.9, 17.1), (0.99, 17.1)])
def test_memory_of_an_echo_state_network_is_that_of_the_reference_sheet(radius, expected):
    drives = [draw_echo_state(50, generator(s), radius, 0.1) for s in range(5)]
    found = [reservoir.compute_memory_capacity(d, generator(7), 100, ridge=1e-6).total for d in drives]
    assert np.mean(found) == pytest.approx(expected, rel=0.15)


RANKS = {0.5: (21, 1), 0.9: (65, 1), 1.2: (78, 27), 2.0: (85, 85)}


@pytest.mark.parametrize("radius", RANKS)
def test_ranks_of_an_echo_state_network_are_those_of_the_reference_sheet(radius):
    kernel, general = RANKS[radius]
    drives = [draw_echo_state(100, generator(s), radius, 0.5) for s in range(3)]
    found = np.mean([reservoir.compute_kernel_rank(d, generator(9)).value for d in drives])
    assert found == pytest.approx(kernel, rel=0.15)
    found = np.mean([reservoir.compute_generalisation_rank(d, generator(9)).value for d in drives])
    assert found == pytest.approx(general, rel=0.3)


def test_rank_is_the_fewest_singular_values_that_make_up_99_percent():
    assert reservoir.compute_rank(np.eye(7)[:, :5]).value == 5
    states = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 6.0))
    assert reservoir.compute_rank(states) == reservoir.StateRank(1, 5)
    assert reservoir.compute_rank(states).fraction == 0.2
    assert reservoir.compute_rank(np.diag([1.0, 1.0, 0.02])).value == 2
    assert reservoir.compute_rank(np.diag([1.0, 1.0, 0.03])).value == 3
    assert reservoir.compute_rank(np.zeros((4, 3))).value == 0


def test_the_kernel_of_a_linear_cycle_is_full_and_what_inputs_share_generalises():
    assert reservoir.compute_kernel_rank(ring(SIZE, 0.999), generator()).value == SIZE
    assert reservoir.compute_generalisation_rank(delay_line(SIZE), generator(), shared=SIZE + 1).value == 1
    assert reservoir.compute_generalisation_rank(delay_line(SIZE), generator(), shared=SIZE).value == 2


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.3])
def test_lyapunov_exponent_of_a_linear_cycle_is_the_logarithm_of_its_radius(radius):
    found = reservoir.compute_lyapunov(ring(SIZE, radius), generator(), washout=10)
    assert found == pytest.approx(math.log(radius), abs=1e-4)


@pytest.mark.parametrize("radius", [0.8, 1.1])
def test_lyapunov_exponent_of_any_linear_reservoir_is_nearly_the_logarithm_of_its_radius(radius):
    weights = generator(1).normal(size=(30, 30))
    drive = linear(scale_weights(weights + weights.T, radius), generator(2).normal(size=(1, 30)))
    found = reservoir.compute_lyapunov(drive, generator(), steps=120, washout=20, perturbation=1.0)
    assert found == pytest.approx(math.log(radius), abs=0.04)


def test_the_logistic_map_has_the_exponent_log_2():
    def drive(u):
        x, found = np.full(len(u), 0.3), []
        for t in range(u.shape[1]):
            # inputs too small to matter start another trajectory
            x = 4.0 * x * (1.0 - x)
            x = np.clip(x + 1e-3 * u[:, t, 0] * (x > 0.1) * (x < 0.9), 0.0, 1.0)
            found.append(x)
        return np.stack(found, 1)[..., None]

    found = reservoir.compute_lyapunov(drive, generator(), series=400, perturbation=1e-8)
    assert found == pytest.approx(math.log(2.0), abs=0.05)


def test_echo_states_fade_below_and_grow_above_the_edge_of_chaos():
    fading, chaotic = (draw_echo_state(100, generator(), radius, 0.1) for radius in (0.8, 2.0))
    assert reservoir.compute_lyapunov(fading, generator()) < -0.1
    assert reservoir.compute_lyapunov(chaotic, generator()) > 0.1


@pytest.mark.parametrize("shared", [-1, 30, 50])
def test_inputs_cannot_share_more_steps_than_they_have(shared):
    with pytest.raises(ValueError, match=f"shared: {shared} is out of range; allowed: 0 to 29"):
        reservoir.compute_generalisation_rank(delay_line(SIZE), generator(), steps=30, shared=shared)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_an_echo_state_network_of_few_neurons_has_a_cycle_too(size):
    seeds = [s for s in range(20) if not has_cycle(first_weights(size, s))]
    assert seeds, "without a second draw some have none"
    for seed in seeds:
        states = draw_echo_state(size, generator(seed))(np.ones((1, 9, 1)))
        assert np.isfinite(states).all() and states.any()


def first_weights(size, seed):
    """The weights that `draw_echo_state` draws first."""
    g = generator(seed)
    return g.normal(size=(size, size)) * (g.random((size, size)) < DENSITY)


def test_a_cycle_is_a_way_back_or_a_synapse_onto_oneself():
    chain = np.eye(4, k=1)
    assert not has_cycle(chain) and not has_cycle(np.zeros((3, 3)))
    assert has_cycle(chain + np.eye(4, k=-3)) and has_cycle(np.diag([0.0, -0.5]))


def test_states_that_never_differ_have_no_finite_exponent_and_no_separation():
    def deaf(u):
        return np.ones((*u.shape[:2], 3))

    assert reservoir.compute_lyapunov(deaf, generator()) == -math.inf
    assert reservoir.compute_separation(deaf, generator()) == 0.0


def test_unrelated_states_are_root_two_apart():
    found = reservoir.compute_separation(delay_line(200), generator(), steps=250)
    assert found == pytest.approx(math.sqrt(2.0), rel=0.03)


def test_standardised_inputs_have_mean_0_and_variance_1():
    u = generator().uniform(0.0, 0.5, (1, 100_000, 1))
    seen = reservoir.standardize_inputs(lambda x: x, 0.0, 0.5)(u)
    assert seen.mean() == pytest.approx(0.0, abs=0.02)
    assert seen.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("order", [10, 30])
def test_narma_is_its_recurrence(order):
    a, b, c, d = {10: (0.3, 0.05, 1.5, 0.1), 30: (0.2, 0.04, 1.5, 0.001)}[order]
    u, shifted = narma.draw_series(200, generator(), order)
    y = [0.0, *shifted]
    for t in range(order, 200):
        total = sum(y[t - i] for i in range(order))
        assert y[t + 1] == pytest.approx(a * y[t] + b * y[t] * total + c * u[t - order + 1] * u[t] + d)
    assert u.min() >= 0.0 and u.max() <= 0.5


def test_narma_is_reservoirpys_where_the_two_recurrences_are_the_same(monkeypatch):
    datasets = pytest.importorskip(
        "reservoirpy.datasets", reason="ReservoirPy is not installed: the extra 'dev'"
    )
    # ours multiplies u(t-n+1) and sums y(t-n+1..t), theirs u(t-n) and y(t-n..t-1): without the sum, only the order differs
    a, _, c, d = narma.COEFFICIENTS[10]
    monkeypatch.setattr(narma, "COEFFICIENTS", {10: (a, 0.0, c, d)})
    u = generator().uniform(0.0, 0.5, 300)
    _, theirs = datasets.narma(291, order=9, a1=a, a2=0.0, b=c, c=d, u=u[:, None])
    # both forget their different beginnings by 0.3 a step
    assert narma.compute_target(u)[60:-1] == pytest.approx(theirs[52:, 0], abs=1e-9)


def test_diverging_draws_are_thrown_away():
    with pytest.raises(ValueError, match="order: 20 given; allowed: 10, 30"):
        narma.draw_series(10, generator(), 20)
    plain = narma.compute_target(generator(DIVERGING).uniform(0.0, 0.5, 2200))
    u, y = narma.draw_series(2200, generator(DIVERGING))
    assert not np.isfinite(plain).all(), "there must be one to throw away"
    assert y.max() < narma.DIVERGED_ABOVE
    assert np.array_equal(y, narma.compute_target(u))


def window(size):
    """u(t), ..., u(t - size + 1)"""
    return lambda u: np.stack([np.pad(u[:, : u.shape[1] - k, 0], ((0, 0), (k, 0))) for k in range(size)], -1)


@pytest.mark.parametrize(("size", "expected"), [(1, 0.758), (10, 0.367)])
def test_narma_10_by_the_input_alone_is_as_good_as_the_reference_sheet_says(size, expected):
    found = [narma.evaluate_narma(window(size), generator(s)).nmse for s in range(5)]
    assert np.mean(found) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("size", "expected"), [(50, 0.184), (100, 0.125), pytest.param(200, 0.076, marks=pytest.mark.slow)]
)
def test_narma_10_by_an_echo_state_network_is_as_good_as_the_reference_sheet_says(size, expected):
    found = [
        narma.evaluate_narma(draw_echo_state(size, generator(s)), generator(100 + s), ridge=1e-8)
        for s in range(5)
    ]
    assert np.mean([f.nmse for f in found]) == pytest.approx(expected, rel=0.2)
    assert found[0].nrmse == math.sqrt(found[0].nmse)


def test_many_short_series_judge_as_one_long_series_does():
    drive = draw_echo_state(100, generator())
    one = np.mean([narma.evaluate_narma(drive, generator(s)).nrmse for s in range(3)])
    many = np.mean([narma.evaluate_narma(drive, generator(s), series=20, washout=50).nrmse for s in range(3)])
    assert many == pytest.approx(one, rel=0.15)


def test_the_readout_is_the_normal_equations_solution_and_its_intercept_is_free():
    x, y = generator().normal(size=(40, 5)) + 3.0, generator(1).normal(size=(40, 2)) + 7.0
    found = fit_ridge_readout(x, y, 0.5)
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 0.5 * np.eye(5), centred.T @ (y - y.mean(0)))
    assert found.weights == pytest.approx(weights)
    assert found(x).mean(0) == pytest.approx(y.mean(0))


def test_a_chosen_ridge_is_small_without_noise_and_large_for_noise_alone():
    x = generator().normal(size=(100, 60))
    exact = x @ generator(1).normal(size=(60, 1))
    assert compute_nmse(exact, fit_ridge_readout(x, exact)(x)) < 1e-12
    noise, fresh = generator(2).normal(size=(2, 100, 1))
    chosen, none = (compute_nmse(fresh, fit_ridge_readout(x, noise, ridge)(x)) for ridge in (None, 0.0))
    assert chosen < 0.8 * none


def test_errors_are_measured_in_the_targets_deviation():
    y = generator().normal(2.0, 3.0, 1000)
    assert compute_nmse(y, np.full_like(y, y.mean())) == pytest.approx(1.0)
    assert compute_nmse(y, y + 0.5 * y.std()) == pytest.approx(0.25)


def pair(size, seed, **settings):
    """A ReservoirPy reservoir and ours of the same weights."""
    nodes = pytest.importorskip("reservoirpy.nodes", reason="ReservoirPy is not installed: the extra 'dev'")
    options = {"sr": 0.9, "input_scaling": 0.4, "rc_connectivity": 0.1, "input_connectivity": 1.0, **settings}
    theirs = nodes.Reservoir(size, bias=0.0, input_dim=1, dtype=np.float64, seed=seed, **options)
    theirs.initialize(np.zeros((1, 1)))
    dense = [np.asarray(w.todense() if hasattr(w, "todense") else w) for w in (theirs.W, theirs.Win)]
    # theirs multiplies from the left
    return theirs, echo_state(dense[0].T, dense[1].reshape(size, 1).T)


def test_our_echo_state_network_is_reservoirpys():
    theirs, ours = pair(50, 0)
    u = generator().uniform(0.0, 0.5, (100, 1))
    assert ours(u[None])[0] == pytest.approx(theirs.run(u), abs=1e-10)


def test_narma_10_with_reservoirpys_network_and_readout_has_our_error():
    theirs, ours = pair(100, 3)
    from reservoirpy.nodes import Ridge
    from reservoirpy.observables import nrmse as their_nrmse

    drawn = [narma.draw_series(2200, seeded) for seeded in [generator(4)] for _ in range(2)]
    states = []
    for u, _ in drawn:
        theirs.reset()
        states.append(theirs.run(u[:, None])[200:])
    (_, train), (_, test) = drawn
    found = np.asarray(Ridge(ridge=1e-8).fit(states[0], train[200:, None]).run(states[1]))
    # their "var" divides by the variance; the definition divides by its root
    expected = their_nrmse(test[200:, None], found, norm_value=test[200:].std())
    assert narma.evaluate_narma(ours, generator(4), ridge=1e-8).nrmse == pytest.approx(expected, rel=1e-3)


def test_memory_capacity_is_reservoirpys():
    from_theirs = pytest.importorskip("reservoirpy.observables", reason="ReservoirPy is not installed")
    theirs, ours = pair(50, 1, input_scaling=0.1)
    from reservoirpy.nodes import Ridge

    u = generator(2).uniform(-1.0, 1.0, (4300, 1))
    expected = from_theirs.memory_capacity(theirs >> Ridge(ridge=1e-6), 60, True, u, test_size=2000)
    found = reservoir.compute_memory_capacity(ours, generator(3), 60, ridge=1e-6)
    # different draws of the same quantity
    assert found.total == pytest.approx(expected[expected > reservoir.MIN_CORRELATION].sum(), rel=0.05)
    assert found.correlations == pytest.approx(expected, abs=0.12)
