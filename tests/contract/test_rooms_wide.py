"""Every connection, graph, plasticity and dataset that exists keeps its contract, without a test of its own."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spiky_rl.classification import samples
from spiky_rl.config import registry
from spiky_rl.connections.base import IntraLayerConnection
from spiky_rl.datasets._events import MissingData, check_events

SIZE, BATCH, STEPS = 24, 5, 30
MAPS = (2, 6, 6)
CONNECTIONS = registry.list_names("connections")
INTRA_LAYER = [
    name for name in CONNECTIONS if issubclass(registry.resolve("connections", name), IntraLayerConnection)
]
"""Connections among the neurons of one layer."""
GRAPHS = [name for name in registry.list_names("graphs") if name != "grown"]
"""A grown graph is a file's: its own tests have one."""
PLASTICITIES = registry.list_names("plasticities")
DATASETS = registry.list_names("datasets")


def connection(name, seed=0):
    torch.manual_seed(seed)
    inputs = (SIZE,) if name in INTRA_LAYER else MAPS
    return registry.configure("connections", name, "c").build(inputs=inputs, outputs=7), inputs


def events(built, inputs):
    channels = int(np.prod(inputs)) * getattr(built, "delays", 1)
    drawn = torch.rand(3, BATCH, channels, generator=torch.Generator().manual_seed(1))
    return (drawn < 0.3).float()


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_connection_maps_flat_signals_to_flat_currents_with_gradients(name):
    built, inputs = connection(name)
    x = events(built, inputs).requires_grad_()
    y = built(x)
    assert y.shape == (3, BATCH, built.width)
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_connection_is_linear_in_its_signal_up_to_its_bias_and_pooling(name):
    built, inputs = connection(name)
    x = events(built, inputs)
    nothing = built(torch.zeros_like(x))
    assert torch.allclose(built(2.0 * x) - nothing, 2.0 * (built(x) - nothing), atol=1e-4)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_seed_draws_a_connection_and_another_seed_another(name):
    (one, _), (same, _), (other, _) = connection(name), connection(name), connection(name, seed=1)
    first, second, third = (torch.cat([p.flatten() for p in c.parameters()]) for c in (one, same, other))
    assert torch.equal(first, second)
    assert name == "lateral" or not torch.equal(first, third), "all of lateral's weights start alike"


@pytest.mark.parametrize("name", CONNECTIONS)
def test_operations_are_none_without_events_and_grow_with_them(name):
    built, inputs = connection(name)
    size = int(np.prod(inputs))
    few = (torch.arange(size) < 3).float().expand(2, size)
    assert (built.operations(torch.zeros(2, size)) == 0).all()
    assert (built.operations(few) > 0).all()
    assert (built.operations(torch.ones(2, size)) > built.operations(few)).all()


@pytest.mark.parametrize("name", CONNECTIONS)
def test_a_connection_among_neurons_says_what_it_weighs_by_delay(name):
    built, inputs = connection(name)
    if name not in INTRA_LAYER:
        assert not hasattr(built, "delays")
        return
    x = events(built, inputs)
    assert built.synapses().shape == (built.delays * SIZE, SIZE)
    assert torch.allclose(built(x), x @ built.synapses(), atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_keeps_dales_law_and_draws_from_its_own_generator_alone(name):
    graph = registry.configure("graphs", name, "g").build()
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, same = (graph.wire(60, np.random.default_rng(3)) for _ in range(2))
    other = graph.wire(60, np.random.default_rng(4))
    assert np.array_equal(one.weights, same.weights) and not np.array_equal(one.weights, other.weights)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert one.weights.shape == (60, 60) and one.weights.dtype == np.float32
    assert (one.weights[one.inhibitory] <= 0).all() and (one.weights[~one.inhibitory] >= 0).all()
    assert 0 < one.inhibitory.sum() < 60 and 0.0 < one.density < 1.0
    assert (np.diag(one.weights) == 0).all()


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_wires_a_reservoir_at_its_rate(name):
    torch.manual_seed(0)
    settings = {"name": "reservoir", "size": 80, "graph": name, "seed": 1}
    built = registry.configure("networks", settings, "n").build(inputs=3, outputs=2)
    features, _ = built(torch.randn(4, BATCH, 3), built.zero_state(BATCH, torch.zeros(1)))
    assert features.shape == (4, BATCH, 2)


@pytest.mark.parametrize("name", PLASTICITIES)
def test_a_plasticity_changes_weights_where_they_are_and_keeps_its_state_apart(name):
    g = torch.Generator().manual_seed(0)
    weight = torch.rand(SIZE, SIZE, generator=g) * (torch.rand(SIZE, SIZE, generator=g) < 0.3)
    inhibitory = torch.arange(SIZE) >= 18
    weight[inhibitory] *= -1.0
    bias = torch.zeros(SIZE)
    built = registry.configure("plasticities", name, "p").build(
        weight=weight, bias=bias, inhibitory=inhibitory, unit=1.0, dt=1.0
    )
    start, place = weight.clone(), weight.data_ptr()
    state = tuple(torch.zeros(BATCH, size) for size in built.state_sizes)
    for _ in range(STEPS):
        spikes = (torch.rand(4, BATCH, SIZE, generator=g) < 0.3).float()
        before = copy.deepcopy(state)
        new = built.observe(spikes, state)
        assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True)), "state was written to"
        assert [s.shape for s in new] == [s.shape for s in state]
        state = new
        built.adapt(weight, bias)
    assert weight.data_ptr() == place, "in place: the reservoir's own"
    assert not torch.equal(weight, start) or (bias != 0).any()
    assert (weight[inhibitory] <= 0).all() and (
        weight[~inhibitory] >= 0
    ).all(), "Dale's law outlives plasticity"
    assert weight.isfinite().all() and bias.isfinite().all()


WIRED = [
    *({"encoder": name} for name in registry.list_names("encoders")),
    *({"decoder": name} for name in registry.list_names("decoders")),
    *({"connection": name} for name in CONNECTIONS if name not in INTRA_LAYER),
    {"connection": {"name": "linear", "density": 0.5, "dale": True}},
    *({"recurrent": name} for name in INTRA_LAYER),
    {"recurrent": {"name": "recurrent", "delays": 3, "density": 0.5, "dale": True}},
]
"""Every part of a feed-forward network with weights or states of its own."""


@pytest.fixture
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("part", WIRED, ids=str)
def test_networks_take_torchs_default_type(part):
    settings = {"name": "feedforward", "layers": [8], "stateful": True, "backend": "torch", **part}
    built = registry.configure("networks", settings, "n").build(inputs=MAPS, outputs=2)
    x = torch.randn(2, BATCH, int(np.prod(MAPS)))
    features, state = built(x, built.zero_state(BATCH, x))
    features.square().sum().backward()
    assert {y.dtype for y in (features, *state, *built.parameters())} == {torch.float64}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "part", [*({"graph": name} for name in GRAPHS), *({"plasticity": name} for name in PLASTICITIES)], ids=str
)
def test_reservoirs_take_torchs_default_type(part):
    settings = {"name": "reservoir", "size": 24, "seed": 1, "backend": "torch", **part}
    built = registry.configure("networks", settings, "n").build(inputs=3, outputs=2)
    x = torch.randn(2, BATCH, 3)
    traces, state = built.compute_fixed_part(x, built.zero_state(BATCH, x), adapt=True)
    features = built.apply_readout(traces)
    assert {y.dtype for y in (features, *state, built.weight)} == {torch.float64}
    assert built.compute_traces(np.zeros((1, 2, 3))).dtype == np.float64


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_declares_what_it_is_and_whom_it_is_classified_by(dataset):
    cls = registry.resolve("datasets", dataset)
    assert all(words for _, words in cls.describe())
    # whose sensor is the recordings' own leaves it to them, too, which agent fits it
    assert cls.agent in (registry.list_names("agents") if hasattr(cls, "shape") else [""])
    assert {"bins", "binary"} <= cls.Options.model_fields.keys()


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_gives_events_on_its_sensor_or_says_which_folder_does_not_hold_it(dataset):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKY_RL_CACHE", f"{folder}/cache")
        try:
            built = registry.configure("datasets", dataset, "dataset").build(data=Path(folder, "none"))
        except MissingData as error:
            assert f"{folder}/none" in str(error) and "\n" not in str(error)
            return
        names = [recording.name for recording in built.recordings]
        assert len(set(names)) == len(names)
        few = built.recordings[:3]
        for recording in few:
            check_events(built.read_events(recording), built.path(recording), built.shape)
            assert 0 <= recording.label < len(built.classes)
        held = samples.load_samples(dataset, built, few)
        assert held.frames(np.arange(len(few))).shape == (len(few), built.bins, *built.shape)
        assert list(built.get_fingerprints()) == list(built.get_fingerprints())
