"""Sigma-delta: events, errors and their bounds, and a gradient that ignores the threshold."""

import math

import pytest
import torch

from spiky_rl.kernels import dispatch
from tests.neurons.drive import build, constant, numbers, run, vocabulary

STEPS, WIDTH = 50, 6
WAVE = torch.sin(2 * math.pi * torch.arange(1000, dtype=torch.float64) / 200)


def changes(values):
    """What a sigma-delta neuron takes in: the difference to the step before."""
    return values.diff(dim=0, prepend=torch.zeros_like(values[:1]))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("threshold", "count", "largest", "typical"),
    [(0.05, 319, 0.049639, 0.025459), (0.1, 159, 0.096762, 0.056401), (0.25, 59, 0.248690, 0.145408)],
)
def test_events_and_errors_on_a_sine_are_the_reference(threshold, count, largest, typical):
    events, _ = run("sigma_delta", changes(WAVE)[:, None], threshold=threshold, activation="identity")
    error = WAVE - events[:, 0].cumsum(0)
    assert (events != 0).sum() == count
    assert error.abs().max().item() == pytest.approx(largest, abs=1e-6)
    assert error.pow(2).mean().sqrt().item() == pytest.approx(typical, abs=1e-6)
    assert events[events != 0].abs().min() >= threshold


def test_equals_the_residual_form_of_lava():
    values = noise(STEPS, WIDTH).cumsum(0)
    events, _ = run("sigma_delta", changes(values), threshold=0.7)
    before, residual = torch.zeros(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    for value, event in zip(values.relu(), events, strict=True):
        change = value - before + residual
        sent = change * (change.abs() >= 0.7)
        residual, before = change - sent, value
        assert torch.allclose(event, sent, atol=1e-12)
    assert 0.1 < (events != 0).double().mean() < 0.9


def test_value_that_does_not_change_costs_nothing():
    current = torch.zeros(STEPS, 2, dtype=torch.float64)
    current[0] = torch.tensor([1.5, -1.5])
    events, _ = run("sigma_delta", current, threshold=0.1)
    assert events[0].tolist() == [1.5, 0.0]
    assert events[1:].abs().sum() == 0


def test_error_behind_a_linear_layer_is_bounded_by_the_sum_of_its_weights():
    values, weights, threshold = noise(STEPS, WIDTH).cumsum(0), noise(4, WIDTH, seed=1), 0.3
    events, _ = run("sigma_delta", changes(values), threshold=threshold)
    error = (values.relu() - events.cumsum(0)) @ weights.T
    assert (error.abs() < threshold * weights.abs().sum(1)).all()
    assert error.abs().max() > 0.1 * threshold * weights.abs().sum(1).min()


def test_a_stack_is_a_rectified_linear_network_to_within_the_threshold():
    first, second = noise(8, 3), noise(5, 8, seed=1)
    x = noise(20, 3, seed=2)
    for threshold, tolerance in ((1e-3, 0.02), (0.1, 2.0)):
        hidden, _ = run("sigma_delta", changes(x @ first.T), threshold=threshold)
        events, _ = run("sigma_delta", hidden @ second.T, threshold=threshold)
        expected = ((x @ first.T).relu() @ second.T).relu()
        assert (events.cumsum(0) - expected).abs().max() < tolerance


def test_gradient_is_that_of_the_network_without_a_threshold():
    neuron, weights = build("sigma_delta", threshold=0.5), noise(STEPS, WIDTH, seed=1)
    current = noise(STEPS, WIDTH).requires_grad_()
    state = tuple(torch.zeros(1, WIDTH, dtype=torch.float64) for _ in neuron.states)
    events, _ = dispatch.unroll(
        "torch", neuron, vocabulary(), current[None, :, None], STEPS, state, numbers(neuron)
    )
    (gradient,) = torch.autograd.grad((events[0, :, 0].cumsum(0) * weights).sum(), current)
    (expected,) = torch.autograd.grad((current.cumsum(0).relu() * weights).sum(), current)
    assert torch.allclose(gradient, expected, atol=1e-12)
    assert (events == 0).any()


def test_a_higher_threshold_lowers_what_is_sent_and_the_surrogate_knows():
    neuron = build("sigma_delta")
    threshold = torch.tensor([0.5], dtype=torch.float64).requires_grad_()
    current = torch.tensor([0.6], dtype=torch.float64)
    rest = neuron.named_states(0.0 * current, 0.0 * current)
    event, _ = neuron.step(vocabulary(), current, rest, neuron.named_params(threshold))
    (gradient,) = torch.autograd.grad(event.sum(), threshold)
    assert event.item() == 0.6
    # minus the event times the arctangent surrogate of slope 2 at 0.6 - 0.5
    assert gradient.item() == pytest.approx(-0.6 / (1 + (math.pi * 0.1) ** 2))


def test_constant_current_is_a_ramp():
    events, values = run("sigma_delta", constant([0.06, -0.06], 10), threshold=0.1)
    assert values[-1].tolist() == pytest.approx([0.6, -0.6])
    assert events[:, 0].tolist() == pytest.approx([0.0, 0.12] * 5)
    assert events[:, 1].abs().sum() == 0
