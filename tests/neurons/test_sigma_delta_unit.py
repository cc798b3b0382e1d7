"""A network of sigma-delta units restores an ANN's activations, and its kernels are the reference whatever the activation."""

import itertools

import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.base import ForwardRecord

ACTIVATIONS = {"elu": nn.ELU(), "relu": nn.ReLU(), "tanh": nn.Tanh(), "identity": nn.Identity()}
STEPS, BATCH, WIDTH = 40, 6, 9


def unit_of(activation, **settings):
    return registry.configure(
        "neurons", {"name": "sigma_delta_unit", "activation": activation, **settings}, "neuron"
    ).build()


def unroll(backend, unit, current, threshold, bias):
    ops = TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build())
    state = tuple(torch.zeros(BATCH, WIDTH) for _ in unit.states)
    return dispatch.unroll(backend, unit, ops, current, STEPS, state, (threshold, bias))


def changes():
    return 0.3 * torch.randn(1, STEPS, BATCH, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_sum_of_events_is_the_activation_of_the_sum_up_to_the_threshold(activation):
    current, bias = changes(), torch.linspace(-1.0, 1.0, WIDTH)
    events, (total, sent) = unroll("torch", unit_of(activation), current, 0.25, bias)
    expected = ACTIVATIONS[activation](current[0].cumsum(0) + bias)
    restored = events[0].cumsum(0)
    assert (restored - expected).abs().max() < 0.25
    assert 0.02 < (events != 0).float().mean() < 0.5
    assert ((events == 0) | (events.abs() >= 0.25)).all()
    torch.testing.assert_close(sent, restored[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, current[0].sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("learned", "activation"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case not in [(True, "elu"), (True, "relu")]))
        for case in itertools.product([False, True], ACTIVATIONS)
    ],
)
def test_its_kernel_is_the_reference_up_to_the_last_bits_of_exp(activation, learned):
    bias = torch.linspace(-1.0, 1.0, WIDTH) if learned else 0.3
    expected, _ = unroll("torch", unit_of(activation), changes(), 0.25, bias)
    found, _ = unroll("cpu", unit_of(activation), changes(), 0.25, bias)
    if activation in ("relu", "identity"):
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [0.5, -0.5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_episode_begins_with_the_event_of_the_bias(activation, bias):
    settings = {
        "name": "feedforward", "layers": [3], "steps": 1, "stateful": True,
        "encoder": "sigma_delta", "decoder": "sigma_delta", "connection": {"name": "linear", "bias": False},
        "neuron": {"name": "sigma_delta_unit", "activation": activation, "bias": bias},
    }  # fmt: skip
    network = registry.configure("networks", settings, "network").build(inputs=2, outputs=1)
    record, x = ForwardRecord(), torch.zeros(2, BATCH, 2)
    network(x, network.zero_state(BATCH, x), record=record)
    first, second = record.layer_spikes[0]
    torch.testing.assert_close(first, ACTIVATIONS[activation](torch.full_like(first, bias)))
    assert not second.any()


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_is_the_activations_before_the_first_event_too(activation, backend):
    current = torch.tensor([-1e-3, 0.0, 1e-3]).view(1, 1, 1, 3).requires_grad_()
    unit, ops = unit_of(activation), TorchOps(registry.configure("surrogates", "arctangent", "s").build())
    dispatch.unroll(backend, unit, ops, current, 1, None, (0.25, 0.0))[0].sum().backward()
    expected = current.detach().flatten().requires_grad_()
    ACTIVATIONS[activation](expected).sum().backward()
    if activation == "relu":  # any number from 0 to 1 is a subgradient at 0: torch takes 0, the unit 1
        expected.grad[1] = 1.0
    torch.testing.assert_close(current.grad.flatten(), expected.grad)
