"""Sigma-delta encoder and decoder: golden counts, error bounds, and the event-driven network as a whole."""

import math

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.networks.base import ForwardRecord

INPUTS, OUTPUTS, STEPS, BATCH, TIME = 3, 2, 3, 5, 30


def encoder(threshold, steps=STEPS, inputs=INPUTS):
    settings = {"name": "sigma_delta", "threshold": threshold}
    return registry.configure("encoders", settings, "encoder").build(inputs=inputs, steps=steps)


def decoder(inputs=INPUTS, outputs=OUTPUTS):
    return (
        registry.configure("decoders", "sigma_delta", "decoder")
        .build(inputs=inputs, outputs=outputs)
        .double()
    )


def walk(seed=0, size=0.2):
    steps = torch.randn(
        TIME, BATCH, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return (size * steps).cumsum(0)


def rest(width=INPUTS, batch=BATCH):
    return (torch.zeros(batch, width, dtype=torch.float64),)


GOLDEN = {0.05: (319, 0.049639, 0.025459), 0.1: (159, 0.096762, 0.056401), 0.25: (59, 0.248690, 0.145408)}
"""Threshold -> graded events, largest error and root mean square error on five periods of a sine of 200 steps."""


@pytest.mark.parametrize("threshold", GOLDEN)
def test_events_of_a_sine_are_the_reference_sheets(threshold):
    x = torch.sin(2 * math.pi * torch.arange(1000, dtype=torch.float64) / 200).view(-1, 1, 1)
    events, (reference,) = encoder(threshold, inputs=1).encode_stateful(x, rest(1, 1), None)
    error = events.sum(1).cumsum(0) - x
    count, largest, mean = GOLDEN[threshold]
    assert int((events != 0).sum()) == count
    assert error.abs().max().item() == pytest.approx(largest, abs=1e-6)
    assert error.square().mean().sqrt().item() == pytest.approx(mean, abs=1e-6)
    assert reference.item() == pytest.approx(events.sum().item())


def test_events_are_in_the_first_inner_step_and_the_first_control_step_sends_whole_values():
    x = walk()
    events, _ = encoder(0.1).encode_stateful(x, rest(), None)
    assert events.shape == (TIME, STEPS, BATCH, INPUTS)
    assert events[:, 1:].abs().max() == 0
    assert torch.equal(events[0, 0], torch.where(x[0].abs() >= 0.1, x[0], torch.zeros_like(x[0])))
    assert 0 < (events[1:, 0] != 0).double().mean() < 1


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_summed_events_recover_the_observation_within_the_threshold_at_any_scale(scale):
    x = walk() * scale
    events, (reference,) = encoder(0.1).encode_stateful(x, rest(), None)
    # events are differences in floating point: one rounding of the largest value a step
    rounding = TIME * torch.finfo(x.dtype).eps * x.abs().max()
    assert (events.sum(1).cumsum(0) - x).abs().max() < 0.1 + rounding
    assert (reference - x[-1]).abs().max() < 0.1 + rounding


def test_a_threshold_is_reached_at_equality_and_zero_sends_every_change():
    x = torch.tensor([[[0.5, -0.5, 0.49]]])
    assert encoder(0.5)(x)[0, 0, 0].tolist() == [0.5, -0.5, 0.0]
    assert torch.equal(encoder(0.0)(x)[:, 0], x)


def test_from_rest_in_every_control_step_whole_values_are_sent():
    x = walk()
    events, state = encoder(0.1).encode_stateful(x, None, None)
    assert state == ()
    assert torch.equal(events[:, 0], torch.where(x.abs() >= 0.1, x, torch.zeros_like(x)))


def test_the_gradient_is_that_of_what_is_sent():
    x, start = walk(size=0.5).requires_grad_(), torch.full((BATCH, INPUTS), 0.2, dtype=torch.float64)
    built = encoder(0.3)
    weights = torch.randn(
        TIME, STEPS, BATCH, INPUTS, generator=torch.Generator().manual_seed(1), dtype=x.dtype
    )

    def loss(values):
        return (built.encode_stateful(values, (start,), None)[0] * weights).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    direction, h = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype), 1e-7
    with torch.no_grad():
        measured = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    assert torch.allclose((gradient * direction).sum(), measured, rtol=1e-6)
    assert ((gradient != 0) == (built.encode_stateful(x, (start,), None)[0][:, 0] != 0)).all()


def test_decoder_sums_weighted_events_over_inner_and_control_steps():
    built = decoder()
    events = walk(1).unsqueeze(1).expand(-1, STEPS, -1, -1)
    start = torch.full((BATCH, OUTPUTS), 0.7, dtype=torch.float64)
    y, (total,) = built(events, (start,), None)
    summed = STEPS * walk(1).cumsum(0) @ built.readout.weight.T
    assert torch.allclose(y, start + summed + built.readout.bias, atol=1e-12)
    assert torch.allclose(total, y[-1] - built.readout.bias, atol=1e-12)
    alone, state = built(events, None, None)
    assert state == ()
    assert torch.allclose(alone, STEPS * walk(1) @ built.readout.weight.T + built.readout.bias, atol=1e-12)


def test_encoder_and_decoder_together_are_a_linear_map_within_the_threshold_times_the_weights():
    built, x = decoder(), walk()
    events, _ = encoder(0.1).encode_stateful(x, rest(), None)
    y, _ = built(events, rest(OUTPUTS), None)
    exact = x @ built.readout.weight.T + built.readout.bias
    bound = 0.1 * built.readout.weight.abs().sum(1)
    assert ((y - exact).abs() < bound + 1e-9).all()


def sigma_delta_network(threshold):
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [16, 12],
        "steps": 1,
        "stateful": True,
        "encoder": {"name": "sigma_delta", "threshold": threshold},
        "connection": {"name": "linear", "offset": 0.0, "spread": 0.0},
        "neuron": {"name": "sigma_delta", "threshold": max(threshold, 1e-3)},
        "decoder": "sigma_delta",
    }
    return registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS).double()


def rectified(network, x):
    """The rectified-linear network of the same weights (its biases are zero)."""
    for layer in network.layers:
        x = torch.relu(x @ layer.connection.weight)
    return network.readout(x)


def test_an_event_driven_network_is_the_rectified_linear_network_within_its_thresholds():
    threshold, x = 0.02, walk()
    network = sigma_delta_network(threshold)
    y, _ = network(x, network.zero_state(BATCH, x))
    # what a layer knows of its input is wrong by less than the threshold, and by what the one below makes of its own error
    error = torch.full((INPUTS,), threshold, dtype=x.dtype)
    for layer in network.layers:
        error = error @ layer.connection.weight.abs() + threshold
    bound = network.readout.weight.abs() @ error
    assert ((y - rectified(network, x)).abs() <= bound).all()
    assert (y - rectified(network, x)).abs().max() > 1e-6


def test_an_event_driven_network_pays_for_changes_only():
    network, record = sigma_delta_network(0.05), ForwardRecord()
    x = walk()[:1].expand(TIME, -1, -1)
    y, _ = network(x, network.zero_state(BATCH, x), record=record)
    encoder_alone, *rest_of_it = record.operations
    assert (encoder_alone == 2 * INPUTS).all()
    assert all(operations[0].sum() > 0 for operations in rest_of_it)
    assert all(operations[1:].sum() == 0 for operations in rest_of_it)
    assert torch.equal(y[1:], y[:1].expand(TIME - 1, -1, -1))
