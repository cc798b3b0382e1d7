"""Synaptic operations of every kind of connection, against counts by hand and against loops over single synapses."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.connections._cost import make_matrix_cost
from spiky_rl.connections.base import Connection
from spiky_rl.learners.common.activity import compute_activity
from spiky_rl.metrics import ann, synops
from spiky_rl.metrics.meter import CostMeter, make_meter
from spiky_rl.networks.base import ForwardRecord, NetworkCost, SpikingNetwork, UnitGroup
from spiky_rl.networks.nir import FileFeedback
from tests.metrics.costs import of_network

STEPS, BATCH, INPUTS, OUTPUTS = 4, 3, 5, 2
EXAMPLE = torch.tensor([[1.3, 0.0, -3.2], [0.0, 1.2, -5.1], [-1.1, 2.7, 0.0]])
"""[outputs, inputs]"""


def built(**settings):
    torch.manual_seed(0)
    inputs = settings.pop("inputs", INPUTS)
    settings = {"name": "feedforward", "steps": STEPS, **settings}
    return registry.configure("networks", settings, "network").build(inputs=inputs, outputs=OUTPUTS)


def passed(network, x):
    """Record of control steps x [T, B, O], from rest."""
    record = ForwardRecord()
    with torch.no_grad():
        network(x, network.zero_state(x.shape[1], x), record=record)
    return record


def counted(network, x):
    return synops.count_operations(network.measure_cost().connections, passed(network, x))


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_example_of_nine_dense_and_four_effective_operations():
    connection = registry.configure("connections", "linear", "connection").build(inputs=3, outputs=3)
    with torch.no_grad():
        connection.weight.copy_(EXAMPLE.t())
    link = connection.measure_cost(0, 0)
    assert link.count(torch.tensor([0.0, 1.3, -1.0])).tolist() == 4
    assert (link.dense, link.weights, link.zeros) == (9, 9, 3)
    layer = nn.Linear(3, 3)
    layer.weight.data = EXAMPLE.clone()
    with ann.count_operations(layer) as tally:
        layer(torch.tensor([[0.0, 1.3, -1.0]]))
    assert (tally.macs, tally.acs, tally.dense) == (4, 0, 9)
    with ann.count_operations(layer) as tally:
        layer(torch.tensor([[0.0, 1.0, -1.0]]))
    assert (tally.macs, tally.acs) == (0, 4)


NETWORKS = {
    "plain": {"layers": [7, 6]},
    "sparse": {"layers": [7], "connection": {"name": "linear", "density": 0.4, "dale": True}},
    "recurrent": {"layers": [7], "recurrent": {"name": "recurrent", "delays": 3, "density": 0.5}},
    "lateral": {"layers": [7, 6], "recurrent": {"name": "lateral", "radius": 1}},
    "convolutional": {
        "layers": [3],
        "inputs": (2, 7, 7),
        "connection": {"name": "convolutional", "kernel": 3, "stride": 2, "padding": 1, "pool": 2},
    },
    "sigma_delta": {
        "layers": [7],
        "neuron": "sigma_delta",
        "encoder": "sigma_delta",
        "decoder": "sigma_delta",
        "stateful": True,
    },
    "reservoir": {"name": "reservoir", "size": 30, "hidden": [4], "seed": 0},
    # an even number of neurons for each output: of an odd one, a population vector gives the middle neuron a weight of 0
    **{f"decoder {name}": {"layers": [7, 8], "decoder": name} for name in registry.list_names("decoders")},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_without_zero_weights_the_count_is_what_the_parts_say_of_themselves(name):
    network = built(**NETWORKS[name])
    width = 98 if name == "convolutional" else INPUTS
    record = passed(network, noise(1, BATCH, width))
    found = synops.count_operations(network.measure_cost().connections, record)
    expected = synops.count_operations_by_environment(record).mean().item() - float(
        record.operations[0].float().mean()
    )
    assert found.effective_macs + found.effective_acs == pytest.approx(expected, rel=1e-6)
    assert 0 < expected <= found.dense


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_zero_cost_an_action_nothing(name):
    network = built(**NETWORKS[name])
    with torch.no_grad():
        for i, weight in enumerate(w for w in network.parameters() if w.ndim > 1):
            weight[noise(*weight.shape, seed=i) < 0] = 0.0
    found = compute_activity(network, noise(BATCH, 98 if name == "convolutional" else INPUTS), None, 0.0)
    counted = found.cost.effective_operations + found.cost.encoder_operations
    assert found.operations == pytest.approx(counted) and counted > 0
    assert found.operations_each.mean().item() == pytest.approx(counted)


class Ring(Connection):
    """A user's own connection: all neurons on a ring share a kernel of three weights per channel."""

    def __init__(self, inputs, outputs):
        super().__init__()
        (size,) = inputs
        self.shape = (outputs, size)
        self.weight = nn.Parameter(torch.randn(outputs, 1, 3))

    def forward(self, x, backend="auto", binary=False, bfloat16=False):
        around = nn.functional.pad(x.reshape(-1, 1, x.shape[-1]), (1, 1), mode="circular")
        return nn.functional.conv1d(around, self.weight).reshape(*x.shape[:-1], self.width)

    def operations(self, events):
        return (events != 0).sum(-1) * self.weight.numel()


def test_an_ann_with_a_users_own_connection_uses_shared_weights_as_often_as_the_network_does():
    network = built(layers=[4], inputs=10, connection=f"{__name__}:Ring")
    cost = CostMeter(network)(passed(network, noise(1, BATCH, 10)))
    assert cost.effective_macs == 10 * 12, "the observation, once per control step"
    assert cost.dense_operations == 10 * 12 + STEPS * 40 * OUTPUTS
    assert cost.equal_ann.effective_macs == 10 * 12 + 0.5 * 40 * OUTPUTS
    assert cost.equal_ann.dense_operations == 10 * 12 + 40 * OUTPUTS
    assert cost.equal_ann.parameters == 12 + 4 + 40 * OUTPUTS + OUTPUTS


def test_spikes_accumulate_and_a_graded_observation_multiplies():
    network = built(layers=[7, 6])
    record = passed(network, noise(1, BATCH, INPUTS))
    found = synops.count_operations(network.measure_cost().connections, record)
    spikes = [float(s.sum()) / BATCH for s in record.layer_spikes]
    assert found.effective_macs == INPUTS * 7, "the observation, once per control step"
    assert found.effective_acs == pytest.approx(spikes[0] * 6 + spikes[1] * OUTPUTS)
    assert found.dense == INPUTS * 7 + STEPS * (7 * 6 + 6 * OUTPUTS)
    silent = sum(int((s == 0).sum()) for s in record.layer_spikes)
    assert found.activation_sparsity == pytest.approx(silent / (BATCH * STEPS * (7 + 6)))


def test_a_binary_encoder_leaves_nothing_to_multiply():
    found = counted(built(layers=[7], encoder="population"), noise(1, BATCH, INPUTS))
    assert found.effective_macs == 0 < found.effective_acs


def test_graded_events_of_sigma_delta_multiply():
    found = counted(built(**NETWORKS["sigma_delta"]), noise(4, BATCH, INPUTS))
    assert found.effective_acs == 0 < found.effective_macs


def test_recurrent_spikes_reach_their_synapses_once_whatever_the_delays():
    network = built(**NETWORKS["recurrent"])
    (layer,) = network.layers
    link = layer.recurrent.measure_cost(1, layer.width)
    alive = int((layer.recurrent.synapses() != 0).sum())
    assert (link.dense, link.zeros) == (49, 49 - alive)
    assert float(link.count(torch.ones(7))) == alive


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize(("steps", "delays"), [(1, 1), (4, 1), (4, 3), (4, 8)])
def test_spikes_that_a_stateless_network_drops_reach_no_synapse(steps, delays, stateful):
    network = built(
        layers=[20], steps=steps, recurrent={"name": "recurrent", "delays": delays}, stateful=stateful
    )
    record = passed(network, 3.0 * noise(1, BATCH, INPUTS))
    spikes, alive = record.layer_spikes[0], network.layers[0].recurrent.synapses().view(delays, 20, 20) != 0
    arrived = 0
    for k, delay in itertools.product(range(steps), range(1, delays + 1)):
        if stateful or k + delay < steps:
            arrived += float((spikes[0, k] @ alive[delay - 1].float()).sum()) / BATCH
    assert spikes.any() and (arrived > 0 or steps == 1)
    expected = INPUTS * 20 + arrived + float(spikes.sum()) / BATCH * OUTPUTS
    assert synops.count_operations_by_environment(record).mean().item() == pytest.approx(expected)
    found = synops.count_operations(network.measure_cost().connections, record)
    assert found.effective_macs + found.effective_acs == pytest.approx(expected)


def test_a_spike_reaches_a_synapse_of_several_delays_once_per_delay():
    weight = np.zeros((3, 4, 4))
    weight[0, 0, 1] = weight[2, 0, 1] = weight[1, 2, 3] = 0.5
    feedback = FileFeedback(weight.reshape(12, 4))
    link = feedback.measure_cost(1, feedback.width)
    for events in (torch.eye(4), torch.ones(4)):
        assert torch.equal(link.count(events), feedback.operations(events))
    assert link.count(torch.eye(4)).tolist() == [2, 0, 1, 0]


def test_a_pruned_convolution_counts_its_remaining_weights_place_by_place():
    settings = {"name": "convolutional", "kernel": 3, "stride": 2, "padding": 1, "pool": 2}
    torch.manual_seed(0)
    connection = registry.configure("connections", settings, "connection").build(inputs=(2, 7, 7), outputs=3)
    with torch.no_grad():
        connection.weight[noise(*connection.weight.shape) < 0] = 0.0
    events = (noise(2, 7, 7, seed=2) > 0.5).float()
    expected = 0
    # 4 x 4 places of the kernel, all of which pooling keeps
    for n, r, c, m, i, j in torch.cartesian_prod(*map(torch.arange, (3, 4, 4, 2, 3, 3))).tolist():
        y, x = 2 * r + i - 1, 2 * c + j - 1
        if 0 <= y < 7 and 0 <= x < 7:
            expected += int(events[m, y, x] != 0 and connection.weight[n, m, i, j] != 0)
    link = connection.measure_cost(0, 0)
    assert float(link.count(events.flatten())) == expected > 0
    assert link.zeros == int((connection.weight == 0).sum()) > 0


def test_weights_that_int8_rounds_to_zero_cost_nothing_in_the_readout_either():
    network = built(layers=[8, 6], quantize="int8")
    with torch.no_grad():
        for weight in (network.layers[1].connection.weight[::2], network.decoder.readout.weight[:, ::2]):
            weight.mul_(1e-4)
    *_, hidden, readout = network.measure_cost().connections
    assert (hidden.zeros, readout.zeros) == (4 * 6, 3 * OUTPUTS)
    assert float(readout.count(torch.ones(6))) == 3 * OUTPUTS


class TestAnn:
    def test_relu_leaves_out_what_it_silenced(self):
        torch.manual_seed(0)
        mlp, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), noise(BATCH, 3)
        with ann.count_operations(mlp) as tally:
            mlp(x)
        alive = int((mlp[:2](x) != 0).sum())
        assert tally.macs == BATCH * 15 + 2 * alive < tally.dense == BATCH * 25
        assert (tally.updates, tally.zeros) == (BATCH * 5, BATCH * 5 - alive)

    def test_dark_pixels_cost_a_convolution_nothing(self):
        cnn = nn.Conv2d(1, 2, 3, padding=1)
        image = torch.zeros(1, 1, 5, 5)
        image[0, 0, 2, 2], image[0, 0, 0, 0] = 0.5, 0.7
        with ann.count_operations(cnn) as tally:
            cnn(image)
        assert tally.macs == 2 * (9 + 4), "a corner is seen by four places"
        assert tally.dense == 2 * (9 * 9 + 12 * 6 + 4 * 4)

    @pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4)])
    def test_a_recurrent_step_multiplies_by_all_weights_of_all_gates(self, kind, gates):
        torch.manual_seed(0)
        rnn = kind(3, 4, num_layers=2)
        with ann.count_operations(rnn) as tally:
            rnn(noise(1, BATCH, 3))
        assert tally.macs == tally.dense == BATCH * gates * (4 * (3 + 4) + 4 * (4 + 4))
        assert tally.updates == BATCH * 8
        assert ann.count_cells(rnn) == (0 if kind is nn.GRU else 8)

    def test_nothing_is_left_behind_in_the_module(self):
        mlp = nn.Sequential(nn.Linear(3, 5), nn.ELU())
        with ann.count_operations(mlp):
            pass
        assert not any(module._forward_hooks for module in mlp.modules())


class Pair(SpikingNetwork):
    """A network of one's own: a matrix, and units without a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = torch.nn.Linear(3, 2, bias=False)
        self.state_sizes = ()

    layer_sizes = (2,)
    readout = property(lambda self: self.connection)


class MeasuredPair(Pair):
    def measure_cost(self) -> NetworkCost:
        weights = make_matrix_cost(self.connection.weight.t(), 0)
        return NetworkCost([weights], [UnitGroup(nn.ELU(), 8, states=2)], 0, 1.0)


def test_a_network_of_ones_own_is_measured_if_it_defines_its_costs():
    assert make_meter(Pair()) is None
    meter = make_meter(MeasuredPair())
    signal = torch.tensor([1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    cost = meter(ForwardRecord([signal, torch.ones(1, 1, 1, 2)], operations=[torch.zeros(1, 1)]))
    assert (cost.effective_acs, cost.dense_operations, cost.neuron_updates) == (4, 6, 8)
    assert (cost.equal_ann.dense_operations, cost.state_accesses) == (6, 32)


def test_a_sample_of_many_frames_costs_their_sum():
    network, x = built(layers=[7], stateful=True), noise(6, BATCH, INPUTS)
    whole = of_network(network, x, network.zero_state(BATCH, x))
    step = CostMeter(network)(passed(network, x))
    assert whole.effective_acs == pytest.approx(6 * step.effective_acs)
    assert whole.neuron_updates == 6 * step.neuron_updates
    assert whole.activation_sparsity == step.activation_sparsity
