"""Rules beside what else a network can do: convolutions that pool, layers that are run again."""

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels.ops import TorchOps
from tests.learning.test_rules import BATCH, NEURON, RULES, agree, network, run


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_superspike_hands_errors_down_through_the_maxima_of_a_pooled_convolution(backend):
    connection = [
        {"name": "convolutional", "kernel": 3, "padding": 1, "map": [1, 8, 8]},
        {"name": "convolutional", "kernel": 3, "pool": 2},
    ]
    torch.manual_seed(0)
    settings = {
        "name": "feedforward",
        "layers": [4, 5],
        "steps": 1,
        "connection": connection,
        "neuron": NEURON,
    }
    net = registry.configure("networks", {**settings, "learning": "superspike"}, "net").build(
        inputs=64, outputs=2
    )
    net.set_backend(backend)
    signal = (
        (torch.rand(1, 1, BATCH, 4 * 64, generator=torch.Generator().manual_seed(3)) > 0.6)
        .float()
        .requires_grad_()
    )
    output, _ = net.layers[1](TorchOps(net.surrogate), signal, 1, None, None, None)
    error = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
    output.backward(error)
    x = signal.detach().requires_grad_()
    (expected,) = torch.autograd.grad(net.layers[1].connection(x, "torch"), x, error)
    assert torch.allclose(signal.grad, expected, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_that_is_run_again_has_the_same_gradient(rule):
    expected, found = run(network(learning=rule))[1], run(network(learning=rule, recompute=True))[1]
    agree(found, expected)


def test_a_recurrent_layer_of_eprop_that_is_run_again_carries_spikes_without_a_gradient():
    settings = {"learning": "eprop", "recurrent": "recurrent"}
    once, again = (network(**settings, recompute=recompute) for recompute in (False, True))
    (features, expected), (same, found) = run(once), run(again)
    assert torch.equal(features, same)
    agree(found, expected)


@pytest.mark.parametrize("rule", RULES)
def test_a_network_under_every_rule_can_be_saved_whole(rule, tmp_path):
    net = network(learning=rule)
    torch.save(net, tmp_path / "net.pt")
    loaded = torch.load(tmp_path / "net.pt", weights_only=False)
    (features, expected), (same, found) = run(net), run(loaded)
    assert torch.equal(features, same)
    agree(found, expected)
