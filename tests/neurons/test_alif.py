"""ALIF against the closed form of its steady interval and against LSNN's recursion."""

import itertools
import math

import pytest
import torch

from spiky_rl.kernels import dispatch
from tests.neurons.drive import build, constant, intervals, numbers, run, spike_steps, vocabulary

SLOW = {"tau": 20.0, "input_gain": "ode"}
DECAY, DECAY_OF_TRACE = math.exp(-1 / 20), math.exp(-1 / 200)


INTERVALS = (
    (0.07, 2.0, [15.2045, 16.5150, 17.7753, 18.9676, 20.0768], 27.0619),
    (0.184, 2.0, [17.5543, 21.4777, 25.4859, 29.3684, 32.8873], 43.0024),
    (0.184, 3.0, [9.9415, 11.8175, 13.7020, 15.5539, 17.3300], 27.5789),
)
"""Adaptation, current, the first intervals and the steady one, in ms."""


def test_intervals_lengthen_to_the_steady_one_of_the_continuous_neuron():
    dt = 0.05
    adaptations, drives, *_ = zip(*INTERVALS, strict=True)
    instead = {"adaptation": torch.tensor(adaptations, dtype=torch.float64)}
    spikes, _ = run("alif", constant(drives, 16000), instead=instead, reset="zero", dt=dt, **SLOW)
    for i, (adaptation, drive, first, steady) in enumerate(INTERVALS):
        measured = [dt * n for n in intervals(spikes[:, i])]
        assert measured[:5] == pytest.approx(first, abs=2 * dt)
        assert measured[-1] == pytest.approx(steady, abs=2 * dt)
        assert (1 - math.exp(-steady / 20)) * drive == pytest.approx(
            1 + adaptation / (math.exp(steady / 200) - 1), abs=1e-4
        )


@pytest.mark.parametrize(
    ("adaptation", "count", "first"),
    [(0.07, 85, [16, 17, 17, 18, 19]), (0.184, 53, [19, 20, 23, 26, 29]), (0.0, 136, [15, 15, 14, 15, 15])],
)
def test_equals_the_recursion_of_lsnn_which_resets_one_step_late(adaptation, count, first):
    # theirs: a = rho a + z', V = alpha V + (1 - alpha) I - z', z = V >= 1 + beta a, with z' of the step before. Ours after
    # the change of variables v = alpha V + 1 - alpha, beta alpha / rho for beta, alpha I + 1 - alpha for I
    spikes, _ = run(
        "alif",
        constant([DECAY * 2.0 + 1 - DECAY], 2000),
        start=(1 - DECAY, 0.0),
        adaptation=adaptation * DECAY / DECAY_OF_TRACE,
        **SLOW,
    )
    assert spikes.sum() == count
    assert spike_steps(spikes[:, 0])[0] == 13
    assert intervals(spikes[:, 0])[:5] == first


def test_intervals_never_shorten_and_adaptation_costs_more_than_two_fifths_of_the_rate():
    current = constant([2.0], 2000)
    adapting = intervals(run("alif", current, adaptation=0.184, dt=0.5, **SLOW)[0][:, 0])
    plain = intervals(run("alif", current, adaptation=0.0, dt=0.5, **SLOW)[0][:, 0])
    assert all(later >= sooner - 1 for sooner, later in itertools.pairwise(adapting))
    assert plain[-1] < 0.6 * adapting[-1]


def test_without_adaptation_it_is_lif():
    current = 3.0 * torch.rand(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for reset in ("subtract", "zero"):
        spikes, potentials = run("alif", current, adaptation=0.0, reset=reset)
        expected, theirs = run("lif", current, reset=reset)
        assert torch.equal(spikes, expected)
        assert torch.equal(potentials, theirs)
        assert spikes.sum() > 20


@pytest.mark.parametrize("detach", [True, False])
def test_trace_carries_a_gradient_whether_or_not_the_reset_is_detached(detach):
    neuron = build("alif", tau=2.0, input_gain="unit", reset="zero", detach_reset=detach)
    current = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    current[0, 0] = 1.2
    current.requires_grad_()
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in neuron.states)
    spikes, (v, a) = dispatch.unroll("torch", neuron, vocabulary(), current, 3, state, numbers(neuron))
    assert spikes.flatten().tolist() == [1.0, 0.0, 0.0]
    (of_trace,) = torch.autograd.grad(a.sum(), current, retain_graph=True)
    (of_membrane,) = torch.autograd.grad(v.sum(), current)
    assert of_trace[0, 0].item() > 0.1
    assert (of_membrane[0, 0].item() == 0.0) is detach
