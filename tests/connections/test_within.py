"""Recurrent and lateral connections: what arrives when, with which sign, and gradients through the loop."""

import itertools

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.base import ForwardRecord

T, K, BATCH, INPUTS, SIZE = 3, 4, 5, 6, 9
WITHIN = {
    "recurrent": {"name": "recurrent", "gain": 1.5},
    "delayed": {"name": "recurrent", "gain": 1.5, "delays": 3, "density": 0.5},
    "dale": {"name": "recurrent", "gain": 1.5, "dale": True, "self_connections": True},
    "lateral": {"name": "lateral", "strength": 2.0, "radius": 2},
}
LIF = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
NEURONS = [LIF, {**LIF, "name": "alif"}, {"name": "sigma_delta"}]


def network(within, neuron=LIF, **settings):
    torch.manual_seed(0)
    return registry.configure(
        "networks",
        {"name": "feedforward", "layers": [SIZE, 7], "steps": K, "recurrent": within, "neuron": neuron, "stateful": True, **settings},
        "network",
    ).build(inputs=INPUTS, outputs=2)  # fmt: skip


def observations(seed=1):
    return 2.0 * torch.randn(T, BATCH, INPUTS, generator=torch.Generator().manual_seed(seed))


def by_hand(net, x, keep=None):
    """Outputs of the first layer by the definition: spikes that were sent d steps ago, through the weights of delay d."""
    layer = net.layers[0]
    neuron, link = layer.neuron, layer.recurrent
    named, params = neuron.named_states, neuron.named_params(*layer.parameters_of_neuron())
    synapses = link.synapses().view(link.delays, SIZE, SIZE)
    ops = TorchOps(net.surrogate)
    states = tuple(torch.zeros(BATCH, SIZE, dtype=x.dtype) for _ in neuron.states)
    sent = [torch.zeros(BATCH, SIZE, dtype=x.dtype)] * link.delays
    current, outputs = x @ layer.connection.synapses() + layer.connection.bias, []
    for t in range(T):
        if keep is not None:
            states = tuple(s * keep[t, :, None] for s in states)
            sent = [s * keep[t, :, None] for s in sent]
        for _ in range(K):
            arriving = sum(sent[-d] @ synapses[d - 1] for d in range(1, link.delays + 1))
            output, states = neuron.step(ops, current[t] + arriving, named(*states), params)
            sent.append(output)
            outputs.append(output)
    return torch.stack(outputs).view(T, K, BATCH, SIZE)


@pytest.mark.parametrize(
    ("within", "neuron"),
    list(itertools.product(WITHIN, NEURONS)),
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_the_loop_is_its_definition_with_gradients(within, neuron):
    net = network(WITHIN[within], neuron).double()
    keep = torch.ones(T, BATCH, dtype=torch.float64)
    keep[1, 2] = keep[2, 0] = 0.0
    x = observations().double()
    record = ForwardRecord()
    net(x, net.zero_state(BATCH, x), keep, record)
    layer = net.layers[0]
    own = tuple(s.squeeze(0) for s in net.zero_state(BATCH, x))[: layer.states]
    output, _ = layer(TorchOps(net.surrogate), x.unsqueeze(1), K, own, keep, None)
    expected = by_hand(net, x, keep)
    assert torch.equal(output, record.signals[1])
    assert torch.allclose(output, expected)
    assert output.abs().sum() > 0
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    learned = [layer.recurrent.weight, layer.connection.weight]
    found = torch.autograd.grad((output * weights).sum(), learned)
    wanted = torch.autograd.grad((expected * weights).sum(), learned)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("within", WITHIN)
def test_a_sequence_in_one_call_equals_its_steps(within):
    net, x = network(WITHIN[within]), observations()
    whole, last = net(x, net.zero_state(BATCH, x))
    state, pieces = net.zero_state(BATCH, x), []
    for t in range(T):
        before = [s.clone() for s in state]
        piece, new = net(x[t : t + 1], state)
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True)), "state was written to"
        state = new
        pieces.append(piece)
    assert torch.allclose(whole, torch.cat(pieces), atol=1e-6)
    assert [s.shape[-1] for s in last] == list(net.state_sizes)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(last, state, strict=True))


def test_the_kernels_follow_the_reference():
    # spikes are compared step by step from the same past: one that flips would change all that come after
    net, x = network(WITHIN["delayed"]), observations()
    net.set_backend("torch")
    expected, _ = net(x, net.zero_state(BATCH, x))
    net.set_backend("auto")
    found, _ = net(x, net.zero_state(BATCH, x))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("delays", [1, 2, 5])
def test_a_spike_arrives_after_its_delay_and_once(delays):
    torch.manual_seed(0)
    built = registry.configure("connections", {"name": "recurrent", "delays": delays}, "r").build(
        inputs=(SIZE,), outputs=SIZE
    )
    synapses = built.synapses().view(delays, SIZE, SIZE)
    assert (
        (synapses != 0).sum(0) == 1 - torch.eye(SIZE)
    ).all(), "every pair has one synapse, none with itself"
    sent = torch.zeros(delays, SIZE)
    sent[0, 3] = 1.0
    total = torch.zeros(SIZE)
    for _ in range(delays):
        total += built(sent.flatten(), "torch")
        sent = torch.cat([torch.zeros(1, SIZE), sent[:-1]])
    assert torch.allclose(total, synapses.sum(0)[3])


@pytest.mark.parametrize(("size", "density"), [(2, 0.5), (2, 0.01), (9, 0.3), (40, 0.1)])
def test_every_neuron_of_a_sparse_loop_has_the_same_number_of_others_to_hear(size, density):
    for seed in range(20):
        torch.manual_seed(seed)
        configured = registry.configure("connections", {"name": "recurrent", "density": density}, "r")
        built = configured.build(inputs=(size,), outputs=size)
        assert ((built.mask != 0).sum(0) == max(1, round(density * (size - 1)))).all()
        assert (built.mask.diagonal() == 0).all()
        assert built.weight.isfinite().all()


def test_dales_law_holds_among_a_layers_neurons():
    synapses = network(WITHIN["dale"]).layers[0].recurrent.synapses()
    signs = synapses.sign()
    assert all(len(set(row[row != 0].tolist())) == 1 for row in signs)
    assert (signs < 0).any() and (signs > 0).any()


def test_lateral_neighbours_inhibit_within_their_radius_on_a_ring():
    torch.manual_seed(0)
    built = registry.configure("connections", WITHIN["lateral"], "l").build(inputs=(SIZE,), outputs=SIZE)
    synapses = built.synapses()
    assert torch.allclose(synapses.sum(0), torch.full((SIZE,), -2.0))
    assert set(synapses[0].nonzero().flatten().tolist()) == {1, 2, 7, 8}
    fixed = registry.configure("connections", {**WITHIN["lateral"], "learned": False}, "l")
    assert not fixed.build(inputs=(SIZE,), outputs=SIZE).weight.requires_grad


def test_lateral_inhibition_thins_out_a_code():
    x = observations()
    rates = []
    for strength in (0.0, 4.0):
        net, record = network({"name": "lateral", "strength": strength}), ForwardRecord()
        net(x, net.zero_state(BATCH, x), record=record)
        rates.append(float(record.signals[1].mean()))
    assert rates[1] < 0.7 * rates[0]


@pytest.mark.parametrize("within", WITHIN)
def test_operations_count_every_spike_at_every_synapse_once(within):
    net, x, record = network(WITHIN[within]), observations(), ForwardRecord()
    net(x, net.zero_state(BATCH, x), record=record)
    layer = net.layers[0]
    spikes = (record.signals[1] != 0).float()
    there = (layer.recurrent.synapses().view(-1, SIZE, SIZE) != 0).float().sum(0)
    counted = (x != 0).sum(-1) * SIZE + (spikes @ there).sum((1, 3))
    assert torch.equal(record.operations[1].float(), counted.float())


def test_recomputation_gives_the_same_gradients():
    x = observations()
    found = []
    for recompute in (False, True):
        net = network(WITHIN["delayed"], recompute=recompute)
        features, _ = net(x, net.zero_state(BATCH, x))
        features.square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recurrent": "linear"}, r"n\.recurrent: 'linear' does not connect among the neurons of a layer; choose from"),
        ({"connection": "lateral"}, r"n\.connection: 'lateral' does not connect between layers; choose from"),
        ({"recurrent": ["lateral"]}, r"n\.recurrent: a list of 1 for 2 layers; give one entry per layer"),
        ({"recurrent": [None, "linear"]}, r"n\.recurrent\[1\]: 'linear' does not connect among"),
        ({"neuron": ["lif", "lif2"]}, r"n\.neuron\[1\]\.name: unknown neuron 'lif2'"),
        ({"recurrent": {"name": "recurrent", "delays": 0}}, r"n\.recurrent\.delays: 0 is out of range"),
        ({"encoder": ["direct"]}, r"n\.encoder: expected a name or a mapping"),
    ],
)  # fmt: skip
def test_connections_in_the_wrong_place_are_refused(settings, message):
    with pytest.raises(registry.RegistryError, match=message):
        registry.configure("networks", {"name": "feedforward", "layers": [4, 4], **settings}, "n")


def test_parts_may_differ_from_layer_to_layer():
    net = network([None, "lateral"], ["lif", {"name": "alif", "adaptation": 0.3}])
    assert net.layers[0].recurrent is None
    assert net.layers[1].recurrent is not None
    assert net.layers[1].neuron.chosen["adaptation"] == 0.3
    assert net.state_sizes == (SIZE, 7, 7, 7, 2)
    x = observations()
    features, _ = net(x, net.zero_state(BATCH, x))
    assert features.shape == (T, BATCH, 2)


def test_settings_of_parts_per_layer_round_trip():
    given = {
        "name": "feedforward",
        "layers": [3, 4],
        "recurrent": [None, "lateral"],
        "neuron": ["lif", "alif"],
    }
    first = registry.configure("networks", given, "n").settings()
    assert registry.configure("networks", first, "n").settings() == first
    assert first["recurrent"][0] is None
