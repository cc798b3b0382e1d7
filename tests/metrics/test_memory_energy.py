"""What memory costs, an ANN that skips zeros beside, and a metre: against numbers worked by hand for tiny networks."""

import dataclasses
import itertools

import numpy
import pytest
import torch
from torch import nn

from spiky_rl.config import registry
from spiky_rl.metrics.energy import (
    ANN_ENERGY_MODELS,
    DRAM,
    ENERGY_MODELS,
    average,
    compute_access_energy,
    compute_energy_per_metre,
    tabulate_energies,
    get_energy_model,
)
from spiky_rl.metrics.meter import CostMeter, measure_ann
from spiky_rl.connections._cost import WeightStorage
from spiky_rl.run.evaluate import compute_nominal_energy
from spiky_rl.run.play import PlayResult
from tests.metrics.costs import of_network

X = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])


def built(inputs=2, **settings):
    torch.manual_seed(0)
    given = {"name": "feedforward", "layers": [3], "steps": 2, "neuron": "lif", **settings}
    return registry.configure("networks", given, "network").build(inputs=inputs, outputs=1)


def test_an_access_costs_what_is_published_of_memories_of_that_size():
    # Horowitz (2014): 64 bits from 8 KB, 32 KB and 1 MB of SRAM, and from DRAM
    assert [compute_access_energy(size) for size in (1, 8192, 32768, 2**20)] == pytest.approx(
        [10.0, 10.0, 20.0, 100.0]
    )
    assert compute_access_energy(16 * 1024) == pytest.approx(
        10.0 * 2**0.5
    ), "twice the size, as long by the square root"
    assert compute_access_energy(2**40) == DRAM == (1300.0 + 2600.0) / 2


ON_CHIP = [name for name, price in ENERGY_MODELS.items() if price.bytes_per_value and not price.has_dram]


@pytest.mark.parametrize("name", ON_CHIP)
def test_energy_is_continuous_in_the_number_of_weights_and_never_falls_with_it(name):
    """Of networks that do the same operations, from one weight to two billion."""
    base = of_network(
        built(inputs=6, layers=[40], connection={"name": "linear", "density": 1 / 6}), torch.ones(1, 2, 6)
    )
    edges = [size // word for size in (8 * 1024, 32 * 1024, 2**20) for word in (1, 2, 4)]
    steps = [round(1.1**k) for k in range(225)]
    counts = sorted({n + d for n in (*edges, *steps) for d in (-1, 0, 1) if n + d > 0})

    def energy(weights: int) -> float:
        sizes = {"parameters": weights, "footprint_bytes": 4 * weights, "stored_values": weights}
        return dataclasses.replace(base, **sizes, index_bytes=weights).compute_energy(ENERGY_MODELS[name])

    energies = [energy(weights) for weights in counts]
    assert energies == sorted(energies) and energies[0] < energies[-1]
    for weights, price in zip(counts, energies, strict=True):
        # a relative change of the size moves the energy by no more than that change
        assert energy(weights + 1) - price <= price / weights


def test_a_network_that_just_fits_into_a_memory_is_hardly_cheaper_than_one_that_just_does_not():
    """Isaac-Ant's MLP of 64-64 units beside one of 62-62: 33.5 KB of weights, and 32 KB."""
    energies = []
    for width in (62, 64):
        mlp = nn.Sequential(
            nn.Linear(60, width), nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, 8)
        )
        cost = measure_ann(mlp, lambda mlp=mlp: mlp(torch.ones(1, 60)), 1)
        energies.append(cost.compute_energy(ENERGY_MODELS["fp32_sram"]) / cost.effective_operations)
    assert energies[1] == pytest.approx(energies[0], rel=0.02)


def test_a_spiking_network_s_traffic_is_a_weight_per_operation_and_its_states_twice_per_update():
    cost = of_network(built(), X)
    # 3 neurons with one state and a readout with one, in 2 inner steps, each read and written
    assert cost.state_accesses == 2 * (3 * 2 * 1 + 1 * 2 * 1)
    words = cost.effective_operations + 16
    # everything lies in 8 KB, where 8 bytes cost 10 pJ: 5 pJ for 4 of them, 1.25 for one
    assert cost.compute_energy(ENERGY_MODELS["fp32_sram"]) == pytest.approx(
        cost.compute_energy(ENERGY_MODELS["fp32"]) + 5.0 * words
    )
    assert cost.compute_energy(ENERGY_MODELS["int8_sram"]) == pytest.approx(
        cost.compute_energy(ENERGY_MODELS["int8"]) + 1.25 * words
    )
    outside = 1950.0 / 2 * cost.effective_operations + 5.0 * 16
    assert cost.compute_energy(ENERGY_MODELS["fp32_dram"]) == pytest.approx(
        cost.compute_energy(ENERGY_MODELS["fp32"]) + outside
    )
    assert (
        cost.compute_memory_energy(ENERGY_MODELS["fp32"])
        == cost.compute_memory_energy(ENERGY_MODELS["loihi"])
        == 0.0
    )


def test_weights_of_a_larger_network_come_from_a_larger_memory():
    cost = dataclasses.replace(of_network(built(), X), footprint_bytes=20_480)
    words = 5.0 * 2.5**0.5 * cost.effective_operations + 5.0 * cost.state_accesses
    assert cost.compute_memory_energy(ENERGY_MODELS["fp32_sram"]) == pytest.approx(words)
    assert cost.compute_memory_energy(ENERGY_MODELS["int8_sram"]) == pytest.approx(
        1.25 * cost.effective_operations + 1.25 * 16
    ), "5 KB"


def test_sparse_connections_lie_in_memory_as_lists_of_synapses_where_prices_know_lists():
    cost = of_network(
        built(inputs=6, layers=[40], connection={"name": "linear", "density": 1 / 6}), torch.ones(1, 2, 6)
    )
    # a synapse for each of 40 neurons, 40 of the readout, 40 + 1 biases; a byte names a neuron, 4 where each of 6 lists begins and the last ends
    assert (cost.stored_values, cost.index_bytes) == (40 + 40 + 41, 40 + 7 * 4)
    # the encoder is constant: each list is read once, and where it begins and ends
    assert cost.index_reads == 40 * 1 + 6 * 8
    read = 4 * (cost.effective_operations + cost.state_accesses) + cost.index_reads
    assert cost.compute_memory_energy(ENERGY_MODELS["fp32_lists"]) == pytest.approx(1.25 * read)
    assert cost.compute_memory_energy(ENERGY_MODELS["int8_lists"]) == pytest.approx(
        1.25 * (read / 4 + 0.75 * cost.index_reads)
    )
    rival = cost.equal_ann
    assert rival is not None and rival.stored_values == cost.stored_values
    assert (rival.index_bytes, rival.index_reads) == (cost.index_bytes, cost.index_reads)


def test_lists_decide_by_what_they_take_which_memory_a_network_comes_from():
    cost = dataclasses.replace(of_network(built(), X), stored_values=8_000, index_bytes=768, index_reads=7.0)
    states = 5.0 * cost.state_accesses
    assert cost.compute_memory_energy(ENERGY_MODELS["fp32_lists"]) == pytest.approx(
        20 / 8 * (4 * cost.effective_operations + 7) + states
    )
    assert cost.scale(3).index_reads == 21 and average([cost, cost.scale(3)]).index_reads == 14


@pytest.mark.parametrize(
    ("inputs", "neurons", "synapses", "expected"),
    [
        (10, 60, 278, (600, 0, 0)),  # 2 bytes each and 44 are not less than the matrix
        (10, 60, 277, (277, 1, 277 + 44)),
        (10, 256, 560, (560, 1, 560 + 44)),
        (10, 257, 570, (570, 2, 2 * 570 + 44)),
    ],
)
def test_a_matrix_is_lists_where_those_are_less_with_weights_of_a_byte(inputs, neurons, synapses, expected):
    stored = WeightStorage(inputs, neurons, inputs * neurons - synapses)
    assert (stored.values, stored.bytes_per_index, stored.index_bytes) == expected
    assert stored.count_read_bytes(5.0, 2.0) == (5 * expected[1] + 16 if expected[1] else 0)


def test_a_spike_reads_a_list_for_every_delay():
    stored = WeightStorage(10, 256, 2_000, delays=3)
    assert stored.index_bytes == 560 + 31 * 4 and stored.count_read_bytes(5.0, 2.0) == 5 + 2 * 3 * 8
    settings = {"recurrent": {"name": "recurrent", "delays": 3, "density": 0.1}, "layers": [60]}
    cost = of_network(built(**settings, stateful=True), X)
    assert cost.index_bytes == 60 * 6 + (3 * 60 + 1) * 4


@pytest.mark.parametrize("density", [0.05, 1.0])
def test_the_delay_of_a_nir_files_feedback_adds_no_weight(density, tmp_path):
    nir = pytest.importorskip("nir", reason="nir is not installed (pip install nir)")
    size, rng = 64, numpy.random.default_rng(0)
    feedback = rng.normal(size=(size, size)) * (rng.random((size, size)) < density)
    costs = []
    for delay in (0.0, 9e-4):
        nodes = {
            "in": nir.Input(numpy.array([2])),
            "map": nir.Linear(rng.normal(size=(size, 2))),
            "neurons": nir.LIF(
                tau=numpy.full(size, 2e-4),
                r=numpy.full(size, 2.0),
                v_leak=numpy.zeros(size),
                v_threshold=numpy.ones(size),
            ),
            "delay": nir.Delay(numpy.full(size, delay)),
            "feedback": nir.Linear(feedback),
            "readout": nir.Linear(rng.normal(size=(1, size))),
            "out": nir.Output(numpy.array([1])),
        }
        chain = ["in", "map", "neurons", "readout", "out"]
        loop = ["neurons", "delay", "feedback", "neurons"]
        edges = [*itertools.pairwise(chain), *itertools.pairwise(loop)]
        file = tmp_path / f"{delay}.nir"
        nir.write(file, nir.NIRGraph(nodes, edges))
        settings = {"name": "nir", "file": str(file), "stateful": True}
        network = registry.configure("networks", settings, "network").build(inputs=2, outputs=1)
        costs.append(CostMeter(network).memory)
    at_once, later = costs
    assert later["state_bytes"] > at_once["state_bytes"], "of the spikes under way"
    assert later["stored_values"] == at_once["stored_values"]


def test_a_pruned_ann_s_layers_are_lists_too():
    layer = nn.Linear(6, 40)
    with torch.no_grad():
        layer.weight.zero_()[:, 0] = 1.0
    cost = measure_ann(layer, lambda: layer(torch.ones(2, 6)), 2)
    assert (cost.stored_values, cost.index_bytes, cost.index_reads) == (40 + 40, 40 + 28, 40 + 48)


MASKED, NOISE = {"recurrent": {"name": "recurrent"}, "stateful": True}, {
    "encoder": {"name": "rate", "seed": 3}
}


@pytest.mark.parametrize("settings", [{}, {"encoder": "population"}, MASKED, NOISE], ids=str)
def test_without_lists_all_is_in_memory_but_masks_and_noise(settings):
    network = built(**settings)
    cost, left_out = of_network(network, X), dict(network.named_buffers())
    left_out = [b for name, b in left_out.items() if name.endswith(("mask", "noise"))]
    assert cost.index_bytes == cost.index_reads == 0
    assert 4 * cost.stored_values == cost.footprint_bytes - sum(
        b.numel() * b.element_size() for b in left_out
    )


def test_without_lists_a_reservoir_s_fixed_weights_and_currents_are_in_memory_too():
    graph = {"name": "erdos_renyi", "density": 0.6}
    settings = {"name": "reservoir", "size": 20, "graph": graph, "steps": 5, "seed": 0}
    torch.manual_seed(0)
    cost = of_network(registry.configure("networks", settings, "network").build(inputs=2, outputs=1), X)
    assert cost.index_bytes == 0 and 4 * cost.stored_values == cost.footprint_bytes


def test_without_lists_an_ann_is_in_memory_as_it_is():
    for body in (
        nn.GRU(2, 3),
        nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
        nn.MultiheadAttention(4, 1),
    ):
        cost = measure_ann(body, lambda: None, 1)
        assert 4 * cost.stored_values == cost.footprint_bytes and cost.index_bytes == 0


@pytest.mark.parametrize(
    ("kind", "accesses"),
    [
        (nn.RNN, 3),  # a unit's output is written, and read by its own layer and the next
        (nn.GRU, 3),
        (nn.LSTM, 5),  # its cell is read and written, too
    ],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_ann_reads_and_writes_its_states(kind, accesses, layers):
    body = kind(2, 4, num_layers=layers)
    cost = measure_ann(body, lambda: body(torch.ones(1, 6, 2)), 6)
    assert cost.state_accesses == accesses * 4 * layers
    assert cost.state_bytes == 4 * 4 * layers * (2 if kind is nn.LSTM else 1)


def test_the_ann_beside_has_the_same_sizes_and_skips_half_of_its_hidden_activations():
    rival = of_network(built(), X).equal_ann
    assert rival is not None
    assert (rival.effective_macs, rival.effective_acs, rival.neuron_updates) == (2 * 3 + 0.5 * 3 * 1, 0.0, 3)
    assert rival.parameters == 2 * 3 + 3 + 3 * 1 + 1 and rival.state_accesses == 2 * 3
    arithmetic = 7.5 * 0.23 + 3 * 0.03
    assert rival.compute_energy(ENERGY_MODELS["int8"]) == pytest.approx(arithmetic)
    assert rival.compute_energy(ENERGY_MODELS["int8_sram"]) == pytest.approx(arithmetic + 1.25 * (7.5 + 6))


def test_outputs_of_an_ann_s_units_lie_in_a_memory_of_the_same_size_counted_or_measured():
    mlp = nn.Sequential(nn.Linear(2, 2000), nn.ReLU(), nn.Linear(2000, 500), nn.ReLU(), nn.Linear(500, 1))
    measured = measure_ann(mlp, lambda: mlp(X[0]), 2)
    counted = of_network(built(layers=[2000, 500]), X).equal_ann
    assert counted is not None and measured.state_accesses == counted.state_accesses == 2 * 2500
    assert measured.state_bytes == counted.state_bytes == 4 * 2500
    assert compute_access_energy(measured.state_bytes) > 11.0, "more than 8 KB"


def test_the_ann_beside_does_not_pay_for_an_encoder_and_has_the_recurrent_synapses():
    wide = of_network(built(encoder={"name": "population", "fields": 10}), X).equal_ann
    plain = of_network(built(), X).equal_ann
    assert wide is not None and plain is not None
    assert wide.effective_macs == pytest.approx(plain.effective_macs) and wide.parameters == plain.parameters
    recurrent = of_network(built(recurrent={"name": "recurrent"}, stateful=True), X).equal_ann
    assert recurrent is not None
    own = int(
        (built(recurrent={"name": "recurrent"}, stateful=True).layers[0].recurrent.synapses() != 0).sum()
    )
    assert recurrent.effective_macs == 7.5 + 0.5 * own and own > 0


def test_the_ann_beside_a_convolution_has_its_parameters_and_all_its_positions():
    layers = [{"name": "convolutional", "kernel": 3}, "linear"]
    network = built(inputs=(1, 8, 8), layers=[3, 4], connection=layers)
    cost = of_network(network, torch.ones(1, 2, 64))
    rival = cost.equal_ann
    assert rival is not None and rival.parameters == cost.parameters == 3 * 9 + 3 + 108 * 4 + 4 + 4 + 1
    assert rival.footprint_bytes == cost.footprint_bytes == 4 * rival.parameters
    assert rival.dense_operations == 36 * 3 * 9 + 108 * 4 + 4
    assert rival.effective_macs == 36 * 3 * 9 + 0.5 * (108 * 4 + 4)


def test_what_serves_training_alone_is_not_in_the_memory_of_a_policy():
    paid, free = (CostMeter(built(sparsity=penalty)) for penalty in ("rate", None))
    assert paid.memory == free.memory


@pytest.mark.parametrize("rule", ["eprop", "superspike"])
def test_weights_that_carry_errors_alone_are_not_in_the_memory_of_a_policy(rule):
    settings = {"layers": [3, 3], "learning": {"name": rule, "feedback": "random"}}
    network, plain = built(**settings), CostMeter(built(layers=[3, 3]))
    assert sum(t.numel() for t in network.state_dict().values()) > 4 + sum(
        t.numel() for t in built(layers=[3, 3]).state_dict().values()
    )
    assert CostMeter(network).memory == plain.memory


def test_a_reservoir_s_synapses_and_traces_are_states_too():
    settings = {"name": "reservoir", "size": 20, "traces": [20.0, 50.0], "steps": 5, "seed": 0}
    torch.manual_seed(0)
    network = registry.configure("networks", settings, "network").build(inputs=2, outputs=1)
    cost = of_network(network, X)
    assert cost.state_accesses == 2 * 20 * 5 * (1 + 1 + 2), "membrane, synapse and two traces"


def test_an_ann_writes_and_reads_its_activations_and_reads_once_more_what_it_remembers():
    mlp, gru = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), nn.GRU(2, 3)
    cost = measure_ann(mlp, lambda: mlp(X[0]), 2)
    assert cost.state_accesses == 2 * 3 and cost.equal_ann is None
    assert cost.compute_memory_energy(get_energy_model("int8_sram")) == pytest.approx(
        1.25 * (cost.effective_operations + 6)
    )
    assert measure_ann(gru, lambda: gru(X), 2).state_accesses == 2 * 3 + 3


def test_a_metre_costs_an_episode_s_energy_by_its_way():
    assert compute_energy_per_metre({"fp32": 200.0, "int8": 10.0}, 900, 30.0) == {
        "fp32": pytest.approx(6.0),
        "int8": pytest.approx(0.3),
    }
    assert compute_energy_per_metre({"fp32": 200.0}, 900, 0.0) is None


def test_playback_and_evaluation_say_what_a_metre_costs_where_the_robot_goes_somewhere():
    cost = of_network(built(), X)
    rows = [{"length": 100, "distance": 1.0}, {"length": 300, "distance": 3.0}]
    played = PlayResult(rows, cost, 0.0, 1.0).energy_per_metre
    assert played is not None and set(played) == set(ENERGY_MODELS)
    assert played["fp32_sram"] == pytest.approx(
        cost.compute_energy(ENERGY_MODELS["fp32_sram"]) * 400 / 4.0 / 1e6
    )
    nominal = {"mean_length": 200.0, "measures": {"distance": 2.0}}
    assert compute_nominal_energy(cost.to_dict(), nominal) == pytest.approx(played)
    assert PlayResult([{"length": 100}], cost, 0.0, 1.0).energy_per_metre is None
    with_a_gap = PlayResult([*rows, {"length": 7}], cost, 0.0, 1.0).energy_per_metre
    assert with_a_gap == PlayResult([{"length": 7}, *rows], cost, 0.0, 1.0).energy_per_metre == played
    assert compute_nominal_energy(cost.to_dict(), {**nominal, "measures": {"upright": 5.0}}) is None
    assert compute_nominal_energy(None, nominal) is None


def test_results_and_texts_have_the_ann_beside():
    cost = of_network(built(), X)
    data = cost.to_dict()
    assert set(data["energy_nj"]) == set(ENERGY_MODELS) and set(data["ann_skipping_zeros_energy_nj"]) == set(
        ANN_ENERGY_MODELS
    )
    assert "equal_ann" not in data and data["state_accesses"] == 16
    assert cost.equal_ann is not None and data["ann_skipping_zeros"] == cost.equal_ann.counts()
    assert {field.name for field in dataclasses.fields(cost)} == {*cost.counts(), "equal_ann"}
    for row, kind in zip(tabulate_energies(cost)[1:], ("fp32", "int8"), strict=True):
        assert kind in row.assumption
        assert row.ann_skipping_zeros == data["ann_skipping_zeros_energy_nj"][f"{kind}_sram"]
    twice = cost.scale(2).equal_ann
    assert (
        average([cost, cost.scale(3)]).state_accesses == 32
        and twice is not None
        and twice.neuron_updates == 6
    )
