"""Hodgkin-Huxley: rest, rheobase, rates, the shape of a spike, and thresholds of short pulses."""

import pytest
import torch

from tests.neurons.drive import build, constant, intervals, named, run, spike_steps, vocabulary

DT = 0.05
FINE = {"gain": 1.0, "dt": DT, "substeps": 1}
COARSE = {"gain": 1.0, "dt": 1.0, "substeps": 20}


def test_rest_is_where_the_currents_cancel():
    neuron = build("hodgkin_huxley")
    assert neuron.rest == pytest.approx(-64.996379, abs=1e-6)
    assert neuron.gates == pytest.approx([0.052955, 0.595994, 0.317732], abs=1e-6)
    conductance, pull = neuron._compute_membrane(neuron.gates, (120.0, 36.0, 0.3), neuron.rest)
    assert conductance == pytest.approx(0.67752, abs=1e-5)
    assert abs(pull) < 1e-12


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float64, 1e-12), pytest.param(torch.float32, 1e-4, marks=pytest.mark.slow)],
)
def test_rest_stays_within_rounding_of_zero(dtype, bound):
    _, v = run("hodgkin_huxley", torch.zeros(200, 1, dtype=dtype))
    assert v.abs().max() < bound


@pytest.mark.slow
def test_rate_under_constant_current_is_the_reference_and_ends_in_depolarisation_block():
    drives = [6.2, 6.5, 7.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 150.0]
    threshold = [6.24, 6.28]
    spikes, _ = run("hodgkin_huxley", constant(drives + threshold, 1000), **COARSE)
    assert spikes[:, :-2].sum(0).tolist() == [3, 55, 59, 63, 69, 79, 87, 99, 117, 1, 1]
    few, train = spikes[:500, -2:].sum(0).tolist()
    assert few <= 5 and train >= 25, "the smallest current for a train"


def test_smallest_current_for_a_spike():
    spikes, _ = run("hodgkin_huxley", constant([2.22, 2.26], 1200), **FINE)
    assert spikes.sum(0).tolist() == [0, 1]


def test_shape_of_the_spike_is_the_reference():
    spikes, v = run("hodgkin_huxley", constant([10.0], 4000), **FINE)
    potential = v[:, 0] + build("hodgkin_huxley").rest
    first, second = spike_steps(spikes[:, 0])[:2].tolist()
    assert (first + 1) * DT == pytest.approx(1.9012, abs=DT)
    assert potential[:second].max().item() == pytest.approx(40.26, abs=0.2)
    late = potential[2000:]
    assert late.max().item() == pytest.approx(30.43, abs=0.2)
    assert late.min().item() == pytest.approx(-74.9, abs=0.2)
    assert DT * intervals(spikes[:, 0])[-1] == pytest.approx(14.6544, abs=DT)


@pytest.mark.parametrize(
    ("duration", "threshold"),
    [
        (0.1, 65.13),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((0.5, 13.275), (1.0, 6.919), (2.0, 3.859))
        ),
        (5.0, 2.351),
    ],
)
def test_short_pulses_need_more_current(duration, threshold):
    current = constant([0.99 * threshold, 1.01 * threshold], 400).clone()
    current[round(duration / DT) :] = 0.0
    spikes, _ = run("hodgkin_huxley", current, **FINE)
    assert spikes.sum(0).tolist() == [0, 1]


@pytest.mark.slow
def test_release_from_inhibition_gives_a_spike():
    current = constant([-10.0], 1400).clone()
    current[round(50 / DT) :] = 0.0
    spikes, _ = run("hodgkin_huxley", current, **FINE)
    (only,) = spike_steps(spikes[:, 0]).tolist()
    assert (only + 1) * DT == pytest.approx(55.73, abs=DT)


def test_substeps_of_one_step_are_steps_of_their_own():
    drives = [0.0, 5.0, 10.0, 50.0]
    fine, v = run("hodgkin_huxley", constant(drives, 400), **FINE)
    coarse, after = run("hodgkin_huxley", constant(drives, 20), **COARSE)
    assert torch.equal(coarse, fine.view(20, 20, -1).amax(1)) and coarse.sum() > 1
    assert torch.equal(after, v[19::20])


@pytest.mark.slow
def test_a_neuron_spikes_again_only_after_its_potential_has_fallen():
    # in depolarisation block the potential falls to -62 mV once and then swings between -55 and -31 mV
    counts = [
        run("hodgkin_huxley", constant([150.0], 600), **FINE, threshold=-40.0, hysteresis=x)[0].sum().item()
        for x in (0.0, 20.0, 40.0)
    ]
    assert counts == [5, 2, 1]


@pytest.mark.parametrize("potential", [-40.0, -55.0])
def test_rates_are_smooth_where_their_formula_is_0_by_0(potential):
    neuron, ops = build("hodgkin_huxley"), vocabulary()
    # both ends of the series, and the singularity itself
    for y in (-0.3, 0.0, 0.3):
        offsets = torch.tensor([-1e-7, 0.0, 1e-7], dtype=torch.float64)
        v = (potential + y + offsets - neuron.rest).requires_grad_()
        state = [v, *(torch.zeros_like(v) for _ in neuron.states[1:])]
        moved = neuron.integrate(ops, torch.zeros_like(v), neuron.named_states(*state), named(neuron))
        for x in (moved[1], moved[3]):
            (slope,) = torch.autograd.grad(x.sum(), v, retain_graph=True)
            assert slope.isfinite().all()
            assert slope[0].item() == pytest.approx(slope[2].item(), rel=1e-5)
            assert (x[2] - x[0]).item() == pytest.approx(2e-7 * slope[1].item(), rel=1e-4)


def test_gradient_is_finite_far_outside_of_what_channels_bring_about():
    neuron = build("hodgkin_huxley")
    current = torch.tensor([-1000.0, -10.0, 10.0, 1000.0]).requires_grad_()
    state = tuple(torch.zeros(4) for _ in neuron.states)
    total = torch.zeros(())
    for _ in range(8):
        spikes, state = neuron.step(vocabulary(), current, neuron.named_states(*state), named(neuron))
        total = total + spikes.sum() + state[0].sum()
    (gradient,) = torch.autograd.grad(total, current)
    assert gradient.isfinite().all()
