"""STDP: the window of a pair, what bounds it, and a reservoir that finds back to its rate."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.reservoirs import calibration

TAU, RATE = 20.0, 0.01
PAIRS = [1, 2, 5, 10, 20, 40]


def pair():
    """STDP on the one synapse 0 -> 1, and what changes it."""
    weight = torch.zeros(2, 2)
    weight[0, 1] = 1.0
    settings = {"name": "stdp", "rate": RATE, "tau": TAU, "intrinsic": 0.0}
    built = registry.configure("plasticities", settings, "p").build(
        weight=weight, bias=torch.zeros(2), inhibitory=torch.zeros(2, dtype=torch.bool), unit=1.0, dt=1.0
    )
    return built, weight


def present(built, weight, times, steps=60):
    """Spikes of neuron i at times[i]; returns the change of 0 -> 1."""
    before, state = float(weight[0, 1]), (torch.zeros(1, 2),)
    for t in range(steps):
        state = built.observe(torch.tensor([[[float(t == times[0]), float(t == times[1])]]]), state)
    # a neuron with one synapse would be scaled back to where it was: let its sum follow the change
    built.sums += built.size * built._change[0, 1]
    built.adapt(weight, torch.zeros(2))
    return float(weight[0, 1]) - before


@pytest.mark.parametrize("gap", PAIRS)
def test_pre_before_post_potentiates_and_post_before_pre_depresses_exponentially(gap):
    built, weight = pair()
    causal = present(built, weight, (5, 5 + gap))
    assert causal == pytest.approx(RATE * math.exp(-(gap - 1) / TAU), rel=0.01)
    built, weight = pair()
    acausal = present(built, weight, (5 + gap, 5))
    assert acausal == pytest.approx(-1.05 * RATE * math.exp(-(gap - 1) / TAU), rel=0.01)


def test_a_coincidence_changes_nothing():
    built, weight = pair()
    assert present(built, weight, (5, 5)) == 0.0


def wired(size=40, seed=0, **settings):
    g = torch.Generator().manual_seed(seed)
    inhibitory = torch.arange(size) >= 30
    w = torch.rand(size, size, generator=g) * (torch.rand(size, size, generator=g) < 0.3)
    w[inhibitory] *= -4.0
    bias = torch.zeros(size)
    built = registry.configure("plasticities", {"name": "stdp", **settings}, "p").build(
        weight=w, bias=bias, inhibitory=inhibitory, unit=2.0, dt=1.0
    )
    return built, w, bias, inhibitory


def poisson(built, weight, bias, steps, seed=1, rate=0.05):
    g, state = torch.Generator().manual_seed(seed), (torch.zeros(8, len(bias)),)
    for t in range(steps):
        state = built.observe((torch.rand(1, 8, len(bias), generator=g) < rate).float(), state)
        if t % 10 == 9:
            built.adapt(weight, bias)
    return state


def test_weights_are_bounded_and_then_scaled_to_their_sums():
    built, weight, bias, _ = wired(rate=0.5, limit=1.5)
    start, sums, state = weight.clone(), (weight * built.plastic).sum(0), (torch.zeros(8, len(bias)),)
    g = torch.Generator().manual_seed(1)
    state = built.observe((torch.rand(10, 8, len(bias), generator=g) < 0.2).float(), state)
    free = (start + built.size * built._change) * built.plastic
    bound = 1.5 * float(start[built.plastic].mean())
    assert (free > bound).any() and (free < 0.0).any(), "there is something to bound"
    built.adapt(weight, bias)
    bounded = free.clamp(0.0, bound)
    expected = torch.where(built.plastic, bounded * sums / bounded.sum(0), start)
    assert torch.allclose(weight, expected, rtol=1e-5)


def test_weights_keep_their_sums_signs_and_places_and_inhibition_stays():
    built, weight, bias, inhibitory = wired(rate=0.1, limit=3.0)
    start, sums = weight.clone(), (weight * built.plastic).sum(0)
    poisson(built, weight, bias, 400)
    assert not torch.equal(weight, start)
    assert torch.equal(weight[inhibitory], start[inhibitory])
    assert torch.equal(weight == 0, (start == 0) | (weight == 0)), "no synapse where there was none"
    assert (weight[~inhibitory] >= 0).all()
    assert torch.allclose((weight * built.plastic).sum(0), sums, rtol=1e-4)


def test_excitability_follows_the_missing_spikes():
    built, weight, bias, _ = wired(intrinsic=0.01, target_rate=20.0)
    poisson(built, weight, bias, 100, rate=0.0)
    assert torch.allclose(bias, torch.full_like(bias, 2.0 * 0.01 * 100 * 0.02)), "in rheobases of 2"
    before = bias.clone()
    poisson(built, weight, bias, 100, rate=0.05)
    assert bias.mean() < before.mean()


def test_only_the_named_number_of_environments_teach_the_synapses():
    found = []
    for environments in (2, 64):
        built, weight, bias, _ = wired(environments=environments, rate=0.1)
        poisson(built, weight, bias, 50)
        found.append(weight)
    assert not torch.allclose(*found)


def reservoir(**settings):
    torch.manual_seed(0)
    return registry.configure(
        "networks", {"name": "reservoir", "size": 100, "seed": 3, "plasticity": "stdp", "control": "gain", **settings}, "n"
    ).build(inputs=4, outputs=1)  # fmt: skip


def homeostasis(gain, seconds):
    """Rate and kernel rank before and after so many simulated seconds, on observations of their own."""
    net = reservoir(control="gain", gain=gain)
    x = calibration.make_observations(16, 100 * seconds, 4, torch.Generator().manual_seed(5))
    other = calibration.make_observations(32, 60, 4, torch.Generator().manual_seed(6))
    before = net._measure_rate(other), kernel_rank(net)
    with torch.inference_mode():
        net.compute_fixed_part(x, net.zero_state(16, x), adapt=True)
    return before, (net._measure_rate(other), kernel_rank(net))


def test_a_reservoir_that_fires_too_much_comes_back_to_its_target():
    (start, rank), (end, rank_after) = homeostasis(3.0, seconds=5)
    assert start > 80.0
    assert abs(end - 20.0) < 0.6 * abs(start - 20.0)
    assert rank_after >= rank - 1


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_a_reservoir_finds_its_target_rate_and_keeps_its_kernel_rank(gain):
    (start, rank), (end, rank_after) = homeostasis(gain, seconds=50)
    assert abs(start / 20.0 - 1.0) > 0.3, "there must be something to correct"
    assert end == pytest.approx(20.0, rel=0.2)
    assert rank_after >= rank - 1


def kernel_rank(net):
    x = calibration.make_observations(100, 20, 4, torch.Generator().manual_seed(6))
    features, _ = net.compute_fixed_part(x, net.zero_state(100, x))
    values = torch.linalg.svdvals(features[-1].double())
    return int((values.cumsum(0) < 0.99 * values.sum()).sum()) + 1


def test_a_reservoir_changes_where_it_is_told_to_and_nowhere_else():
    net = reservoir()
    x = calibration.make_observations(8, 20, 4, torch.Generator().manual_seed(5))
    start = net.weight.clone()
    net.train()
    net.compute_fixed_part(x, net.zero_state(8, x))
    net(x, net.zero_state(8, x))
    net(x, net.zero_state(8, x), record=ForwardRecord())
    assert torch.equal(net.weight, start)
    with torch.inference_mode():
        net.compute_fixed_part(x, net.zero_state(8, x), adapt=True)
    assert not torch.equal(net.weight, start)
    assert not net.weight.is_inference(), "a checkpoint and an export read it"


def test_a_sequence_in_one_call_changes_a_reservoir_as_its_steps_do():
    x, found = calibration.make_observations(8, 30, 4, torch.Generator().manual_seed(5)), []
    for length in (30, 1):
        net = reservoir(plasticity={"name": "stdp", "rate": 0.05, "intrinsic": 0.05})
        state, pieces = net.zero_state(8, x), []
        with torch.inference_mode():
            for t in range(0, 30, length):
                piece, state = net.compute_fixed_part(x[t : t + length], state, adapt=True)
                pieces.append(piece)
        found.append((torch.cat(pieces), net.weight, net.bias))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
    assert (found[0][2] - found[0][2][0]).abs().max() > 0.1, "the bias must have moved"
