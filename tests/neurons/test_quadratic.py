"""QIF against its closed-form interval, at every step size."""

import itertools
import math

import pytest
import torch

from spiky_rl.config.registry import RegistryError
from tests.neurons.drive import build, constant, intervals, named, run, spike_steps, vocabulary

CRITICAL = 1.0
"""Canonical x = v - 1/2, eta = current - 1/4."""


def canonical(eta, bound, steps, dt):
    """Spikes [K] of tau dx/dt = x^2 + eta between -bound and bound, from -bound."""
    start = CRITICAL / 2 - bound
    options = {"tau": 1.0, "critical": CRITICAL, "peak": CRITICAL / 2 + bound, "reset": start, "dt": dt}
    return run("quadratic", constant([eta + CRITICAL**2 / 4], steps), start=(start,), **options)[0][:, 0]


PERIODS = [
    (1.0, 10.0, 2.942255),
    (1.0, 1.0, 1.570796),
    (1.0, 100.0, 3.121593),
    (4.0, 10.0, 1.373401),
    (0.1, 10.0, 9.734655),
]
"""Canonical current, bound and interval."""


@pytest.mark.parametrize(
    ("eta", "bound", "period", "dt"),
    [
        pytest.param(*case, dt, marks=[pytest.mark.slow] * (dt == 0.01 and case != PERIODS[0]))
        for case, dt in itertools.product(PERIODS, [0.01, 0.05, 0.1, 0.2])
    ],
)
def test_interval_is_the_closed_form_at_any_step(eta, bound, period, dt):
    root = math.sqrt(eta)
    assert 2 / root * math.atan(bound / root) == pytest.approx(period, abs=1e-6)
    steps = spike_steps(canonical(eta, bound, int(30 / dt), dt))
    assert set(steps.diff(prepend=torch.tensor([-1])).tolist()) == {math.ceil(period / dt)}


@pytest.mark.parametrize("dt", [0.01, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.slow
def test_count_does_not_depend_on_the_step_where_euler_s_method_multiplies_it(dt):
    assert canonical(1.0, 10.0, round(100 / dt), dt).sum() == 33
    x, euler = -10.0, 0
    for _ in range(1000):
        x += 0.1 * (x * x + 1.0)
        euler, x = (euler + 1, -10.0) if x >= 10.0 else (euler, x)
    assert euler == 58


@pytest.mark.slow
def test_rates_of_the_biophysical_parameters_are_the_closed_form():
    # tau dV/dt = 0.1 (V + 65)(V + 50) + R I, from -70 to 0 mV: v = 0.1 (V + 65), current 0.1 R I
    drives, rates = [6.0, 8.0, 10.0, 15.0], [6.555, 18.149, 26.037, 41.812]
    options = {"tau": 10.0, "critical": 1.5, "peak": 6.5, "reset": -0.5, "dt": 0.1}
    spikes, _ = run("quadratic", constant([0.1 * x for x in drives], 6000), **options)
    for i, (drive, rate) in enumerate(zip(drives, rates, strict=True)):
        root = math.sqrt(0.1 * drive - 1.5**2 / 4)
        period = 10.0 / root * (math.atan(5.75 / root) + math.atan(1.25 / root))
        assert 1000 / period == pytest.approx(rate, abs=1e-3)
        assert set(intervals(spikes[:, i])) == {math.ceil(period / 0.1)}


def test_below_rheobase_it_settles_at_the_stable_point_and_above_it_fires():
    spikes, v = run("quadratic", constant([-3.0, 0.24, 0.25, 0.26], 400), critical=1.0)
    assert spikes.sum(0)[:3].tolist() == [0, 0, 0]
    assert spikes.sum(0)[3] > 5
    stable = [0.5 - math.sqrt(0.25 - current) for current in (-3.0, 0.24)]
    assert v[-1, :2].tolist() == pytest.approx(stable, abs=1e-6)


def test_many_small_steps_are_one_large_step():
    for current in (-2.0, 0.1, 0.25, 0.2500001, 1.0, 3.0):
        options = {"start": (0.3,), "tau": 2.0, "critical": 1.0, "peak": 50.0}
        _, fine = run("quadratic", constant([current], 64), dt=1 / 64, **options)
        _, coarse = run("quadratic", constant([current], 1), dt=1.0, **options)
        assert fine[-1].item() == pytest.approx(coarse.item(), abs=1e-12)


def test_gradient_is_finite_and_bounded_everywhere():
    neuron, ops = build("quadratic"), vocabulary()
    current = torch.linspace(-300, 300, 601, dtype=torch.float64)[:, None].requires_grad_()
    v = torch.linspace(-50, 3, 107, dtype=torch.float64).requires_grad_()
    spikes, (after,) = neuron.step(ops, current, neuron.named_states(v.expand(601, -1)), named(neuron))
    assert after.isfinite().all()
    for output in (spikes, after):
        for gradient in torch.autograd.grad(output.sum(), (current, v), retain_graph=True):
            assert gradient.isfinite().all()
    (potential,) = neuron.integrate(ops, current, neuron.named_states(v.expand(601, -1)), named(neuron))
    (slope,) = torch.autograd.grad(potential.sum(), current)
    assert slope.min() >= 0, "more current never lowers the potential"


def test_gradient_is_continuous_where_the_formula_changes():
    neuron = build("quadratic", critical=1.0, tau=2.0, peak=4.0)
    # z = J h^2 = -1e-4, 0, 1e-4
    for z in (-1e-4, 0.0, 1e-4):
        current = 0.25 + z * 4 + torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
        slopes = _slopes(neuron, current, 0.3)
        assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-6)


def _slopes(neuron, current, v):
    current = current.clone().requires_grad_()
    before = neuron.named_states(torch.full_like(current, v).detach())
    (after,) = neuron.integrate(vocabulary(), current, before, named(neuron))
    return torch.autograd.grad(after.sum(), current)[0]


def test_a_spike_moves_the_neuron_to_its_reset():
    spikes, v = run("quadratic", constant([20.0], 3), reset=-0.5)
    assert spikes.flatten().tolist() == [1, 1, 1]
    assert v.flatten().tolist() == [-0.5, -0.5, -0.5]


def test_potentials_that_contradict_each_other_are_refused():
    with pytest.raises(
        RegistryError, match="neuron.critical: 5.0 is out of range; it must be below the peak, 3.0"
    ):
        build("quadratic", critical=5.0)
    with pytest.raises(RegistryError, match="neuron.reset: 3.0 is out of range"):
        build("quadratic", reset=3.0)
    assert build("quadratic", learn=["critical"]).get_parameter_range("critical") == (1e-3, 3.0)
