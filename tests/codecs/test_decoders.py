"""Decoders against their closed forms."""

import math

import pytest
import torch

from spiky_rl.config import registry
from tests.kernels.cases import CPU

NEURONS, OUTPUTS, STEPS, BATCH, TIME = 6, 2, 5, 4, 3
TAU, DT = 3.0, 0.5
DECAY = math.exp(-DT / TAU)


def decoder(**settings):
    built = (
        registry.configure("decoders", settings, "decoder").build(inputs=NEURONS, outputs=OUTPUTS).double()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        built.readout.weight.copy_(torch.randn(OUTPUTS, NEURONS, generator=generator))
        built.readout.bias.copy_(torch.tensor([0.7, -1.3]))
    return built


def membrane(read="last"):
    return decoder(name="membrane", read=read, tau=TAU, dt=DT)


def spikes(time=TIME, steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(time, steps, BATCH, NEURONS, generator=generator) < 0.3).double()


def rest():
    return (torch.zeros(BATCH, OUTPUTS, dtype=torch.float64),)


def closed_form(built, x, start=None):
    """Potentials [steps, B, F] after each step: a^k V_0 + (1 - a) sum_j a^(k - j) W s_j, for x [steps, B, N]."""
    start = torch.zeros(BATCH, OUTPUTS, dtype=torch.float64) if start is None else start
    drive = x @ built.readout.weight.T
    return torch.stack(
        [
            DECAY ** (k + 1) * start + (1 - DECAY) * sum(DECAY ** (k - j) * drive[j] for j in range(k + 1))
            for k in range(x.shape[0])
        ]
    )


def test_rate_is_a_linear_map_of_the_mean_over_the_inner_steps():
    built, x = decoder(name="rate"), spikes()
    y, state = built(x, (), None)
    assert state == ()
    assert built.state_width == 0
    expected = x.sum(1) / STEPS @ built.readout.weight.T + built.readout.bias
    assert torch.allclose(y, expected, atol=1e-12)
    once = torch.ones(1, STEPS, BATCH, NEURONS, dtype=torch.float64)
    assert torch.allclose(built(once, (), None)[0][0], built.readout.weight.sum(1) + built.readout.bias)


@pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)
@pytest.mark.parametrize("steps", [1, STEPS])
def test_rates_of_one_inner_step_are_spikes_whose_events_the_kernel_follows_and_of_several_are_not(steps):
    built, x = decoder(name="rate").float(), spikes(steps=steps).float().requires_grad_()
    built.configure("cpu", binary=True)
    before = CPU.launches["linear backward"]
    found, _ = built(x, None, None)
    expected = torch.nn.functional.linear(x.mean(1), built.readout.weight, built.readout.bias)
    of_found, of_expected = (
        torch.autograd.grad(y.square().sum(), (x, *built.readout.parameters())) for y in (found, expected)
    )
    assert CPU.launches["linear backward"] == before + (steps == 1)
    for mine, theirs in zip((found, *of_found), (expected, *of_expected), strict=True):
        torch.testing.assert_close(mine, theirs)


READS = {
    "last": lambda potentials: potentials[-1],
    "mean": lambda potentials: potentials.mean(0),
    "max": lambda potentials: potentials.amax(0),
}


@pytest.mark.parametrize("read", READS)
def test_membrane_reads_the_closed_form_of_its_potential(read):
    built, x = membrane(read), spikes()
    y, (state,) = built(x, rest(), None)
    potentials = closed_form(built, x.flatten(0, 1)).view(TIME, STEPS, BATCH, OUTPUTS)
    for t in range(TIME):
        assert torch.allclose(y[t], READS[read](potentials[t]) + built.readout.bias, atol=1e-12)
    assert torch.allclose(state, potentials[-1, -1], atol=1e-12)


@pytest.mark.parametrize("read", READS)
def test_membrane_carried_over_equals_a_longer_run(read):
    built, x = membrane(read), spikes()
    whole, last = built(x, rest(), None)
    state, pieces = rest(), []
    for t in range(TIME):
        piece, state = built(x[t : t + 1], state, None)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(state[0], last[0])
    joined, end = built(x.reshape(1, TIME * STEPS, BATCH, NEURONS), rest(), None)
    assert torch.equal(end[0], last[0])
    if read == "last":
        assert torch.equal(joined[0], whole[-1])


def test_membrane_settles_at_a_constant_input_that_is_read_back_within_what_has_not_decayed():
    built, x = membrane(), torch.linspace(-2, 2, BATCH, dtype=torch.float64)
    constant = x.view(1, 1, -1, 1).expand(1, 40, BATCH, NEURONS)
    y, _ = built(constant, rest(), None)
    exact = x[:, None] * built.readout.weight.sum(1)
    # from rest, V_K = (1 - a^K) W x
    assert torch.allclose(y[0] - built.readout.bias, (1 - DECAY**40) * exact, atol=1e-12)
    assert ((y[0] - built.readout.bias - exact).abs() <= DECAY**40 * exact.abs() + 1e-12).all()


def test_membrane_starts_from_the_state_that_goes_in():
    built, x = membrane(), spikes(time=1)
    start = torch.full((BATCH, OUTPUTS), 2.0, dtype=torch.float64)
    y, _ = built(x, (start,), None)
    assert torch.allclose(y[0], closed_form(built, x[0], start)[-1] + built.readout.bias, atol=1e-12)
    assert (start == 2.0).all(), "the state that goes in is never written to"


def test_membrane_starts_from_rest_where_an_episode_begins():
    built, x = membrane(), spikes()
    keep = torch.ones(TIME, BATCH, dtype=torch.float64)
    keep[1, 2] = 0.0
    masked, _ = built(x, rest(), keep)
    plain, _ = built(x, rest(), None)
    fresh, _ = built(x[1:], rest(), None)
    assert torch.equal(masked[1:, 2], fresh[:, 2])
    others = [0, 1, 3]
    assert torch.equal(masked[:, others], plain[:, others])
    assert not torch.allclose(fresh[0, others], plain[1, others])


@pytest.mark.parametrize("read", READS)
def test_the_bias_is_added_to_what_is_read_and_never_enters_the_potential(read):
    built = membrane(read)
    y, (state,) = built(torch.zeros(TIME, STEPS, BATCH, NEURONS, dtype=torch.float64), rest(), None)
    assert torch.equal(y, built.readout.bias.expand_as(y)), "whole from the first control step on"
    assert state.abs().max() == 0


@pytest.mark.parametrize("settings", [{"name": "rate"}, {"name": "membrane"}])
def test_readout_operations_are_spikes_times_outputs(settings):
    built, x = decoder(**settings), torch.zeros(1, STEPS, 2, NEURONS, dtype=torch.float64)
    x[0, 1, 0, 3] = x[0, 2, 0, 3] = x[0, 4, 0, 5] = 1.0
    assert built.operations(x).tolist() == [[3 * OUTPUTS, 0]]


@pytest.mark.parametrize("settings", [{"name": "rate"}, *({"name": "membrane", "read": r} for r in READS)])
def test_every_readout_weight_gets_its_gradient(settings):
    built, x = decoder(**settings), spikes().requires_grad_()
    y, _ = built(x, rest() if built.state_width else (), None)
    y.pow(2).sum().backward()
    assert (built.readout.weight.grad != 0).all()
    assert (built.readout.bias.grad != 0).all()
    assert x.grad.abs().sum() > 0
