"""The convolutional connection: what it computes, what it refuses, what it costs, and that networks of it learn."""

import itertools
import math
import time

import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.config.registry import RegistryError
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.kernels.backends.cpu import load_convolution_kernels
from spiky_rl.networks.base import ForwardRecord
from tests.kernels.cases import CPU

MAPS = (2, 6, 7)
"""Channels, height and width; unequal, so that nothing can be mixed up."""
OUTPUTS, STEPS, BATCH = 3, 4, 5
DECAY, THRESHOLD = math.exp(-1.0 / 2.0), 1.0
GEOMETRIES = [
    {"kernel": 3},
    {"kernel": 3, "padding": 1},
    {"kernel": 5, "stride": 2, "padding": 2},
    {"kernel": 2, "stride": 3},
    {"kernel": 3, "pool": 2},
    {"kernel": 3, "padding": 1, "pool": 2, "pooling": "average"},
    {"kernel": 1, "stride": 2, "pool": 3, "pooling": "max"},
    {"kernel": 6},
]
ZOO = registry.list_names("neurons")
DIGITS = {"name": "convolutional", "kernel": 3, "padding": 1}
MAX_POOLED, AVERAGED = ({**DIGITS, "pool": 2, "pooling": kind} for kind in ("max", "average"))


def connection(inputs=MAPS, outputs=OUTPUTS, seed=0, **options) -> Convolutional:
    torch.manual_seed(seed)
    configured = registry.configure("connections", {"name": "convolutional", **options}, "connection")
    return configured.build(inputs=inputs, outputs=outputs)


LEAKY = {"name": "lif", "tau": 2.0, "input_gain": "ode"}


def network(layers, inputs=MAPS, outputs=2, seed=0, **settings):
    torch.manual_seed(seed)
    base = {"name": "feedforward", "layers": layers, "steps": STEPS, "neuron": LEAKY}
    configured = registry.configure("networks", {**base, "connection": DIGITS, **settings}, "network")
    return configured.build(inputs=inputs, outputs=outputs)


def by_loops(link: Convolutional, maps: torch.Tensor) -> torch.Tensor:
    """Current of one sample [C, H, W], product by product: [C', H', W']."""
    padded = torch.nn.functional.pad(maps, (link.padding,) * 4)
    size = link.weight.shape[-1]
    places = [range(0, side - size + 1, link.stride) for side in padded.shape[1:]]
    rows = []
    for n, r, c in itertools.product(range(len(link.weight)), *places):
        window = padded[:, r : r + size, c : c + size]
        rows.append((window * link.weight[n]).sum() + link.bias[n])
    current = torch.stack(rows).view(-1, *map(len, places))
    blocks, kind = [], torch.amax if link.pooling == "max" else torch.mean
    for n, r, c in itertools.product(*map(range, link.shape)):
        p = link.pool
        blocks.append(kind(current[n, r * p : (r + 1) * p, c * p : (c + 1) * p], (0, 1)))
    return torch.stack(blocks).view(link.shape)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_current_and_gradients_equal_those_of_plain_loops(geometry):
    link = connection(**geometry).double()
    x = torch.randn(2, 1, BATCH, math.prod(MAPS), dtype=torch.float64, requires_grad=True)
    y = link(x)
    assert y.shape == (2, 1, BATCH, link.width)
    expected = torch.stack([by_loops(link, row.view(MAPS)).flatten() for row in x.view(-1, x.shape[-1])])
    assert torch.allclose(y.view_as(expected), expected, atol=1e-12)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = (x, link.weight, link.bias)
    found = torch.autograd.grad((y.view_as(weights) * weights).sum(), wanted)
    right = torch.autograd.grad((expected * weights).sum(), wanted)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, right, strict=True))


def test_a_layer_equals_torchs_convolution_and_a_lif_written_out():
    net = network([OUTPUTS], surrogate={"name": "arctangent", "slope": 2.0}).double()
    net.set_backend("torch")
    link, record = net.layers[0].connection, ForwardRecord()
    x = 3.0 * torch.randn(1, BATCH, math.prod(MAPS), dtype=torch.float64)
    net(x, None, record=record)
    current = torch.nn.functional.conv2d(x.view(-1, *MAPS), link.weight, link.bias, padding=1).flatten(1)
    v, spikes = torch.zeros_like(current), []
    for _ in range(STEPS):
        v = DECAY * v + (1.0 - DECAY) * current
        spikes.append((v >= THRESHOLD).double())
        v = v - THRESHOLD * spikes[-1]
    assert torch.equal(record.signals[1][0], torch.stack(spikes))
    assert 0.05 < record.signals[1].mean() < 0.95


@pytest.mark.parametrize("pooling", [{}, {"pool": 2}, {"pool": 2, "pooling": "average"}], ids=str)
def test_gradients_of_all_weights_equal_finite_differences_with_soft_spikes(pooling):
    neuron = {**LEAKY, "detach_reset": False}
    net = network([3, 2], neuron=neuron, connection={**DIGITS, **pooling}).double()
    net.soft_spike = True
    x = torch.randn(1, BATCH, math.prod(MAPS), dtype=torch.float64)

    def loss():
        return net(x, None)[0].pow(2).sum()

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    directions, h = [torch.randn_like(p) for p in parameters], 1e-6
    expected, values = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)), []
    with torch.no_grad():
        for step in (h, -2 * h):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += step * direction
            values.append(loss())
    assert torch.allclose(expected, (values[0] - values[1]) / (2 * h), rtol=1e-6)


def learned(net, run, x):
    """Features, and the gradients of all weights."""
    y = run(x, None)[0]
    return y, *torch.autograd.grad(y.pow(2).sum(), list(net.parameters()))


def test_running_again_in_the_backward_pass_changes_no_bit():
    nets = [network([4, 6], (2, 12, 12), connection=MAX_POOLED, recompute=again) for again in (False, True)]
    x = torch.randn(1, BATCH, 288)
    found, expected = (learned(net, net, x) for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in found[1:])


@pytest.mark.parametrize(
    "pooled",
    [pytest.param(MAX_POOLED, id="max"), pytest.param(AVERAGED, id="average", marks=pytest.mark.slow)],
)
def test_a_compiled_and_an_exported_network_are_the_eager_one(pooled):
    net = network([4, 6], (2, 12, 12), connection=pooled, gradient_precision="float32")
    x = torch.randn(1, BATCH, 288)
    shapes = ({1: torch.export.Dim.DYNAMIC}, None)
    exported = torch.export.export(net, (x, None), dynamic_shapes=shapes, strict=False).module()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    expected = learned(net, net, x)
    for found in (learned(net, compiled, x), learned(exported, exported, x)):
        assert torch.equal(found[0], expected[0])
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found, expected, strict=True))
    twice = torch.cat([x, 2.0 * x], 1)
    assert torch.equal(exported(twice, None)[0], net(twice, None)[0])


@pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)
def test_gradients_of_pooled_maps_are_in_bfloat16_where_that_is_allowed_and_the_cpu_has_it():
    link, x = connection(kernel=3, pool=2), torch.randn(BATCH, math.prod(MAPS), requires_grad=True)

    def gradients(bfloat16):
        return torch.autograd.grad(
            link(x, "cpu", bfloat16=bfloat16).square().sum(), (x, link.weight, link.bias)
        )

    *found, bias = [(a - b).norm() / b.norm() for a, b in zip(gradients(True), gradients(False), strict=True)]
    assert all(
        1e-4 < share < 1e-2 if load_convolution_kernels().spiky_has_bfloat16() else share == 0
        for share in found
    )
    assert bias < 1e-6, "sums are not rounded"


def test_shapes_follow_from_layer_to_layer_down_to_the_literatures_network():
    layers = [{**DIGITS, "kernel": 5, "padding": 0, "pool": 2}] * 2
    net = network([12, 32], inputs=(1, 28, 28), outputs=10, connection=layers)
    shapes = [layer.connection.shape for layer in net.layers]
    assert shapes == [(12, 12, 12), (32, 4, 4)]
    assert [layer.width for layer in net.layers] == [1728, 512]
    assert net.decoder.readout.weight.shape[-1] == 512
    assert net(torch.rand(1, BATCH, 784), None)[0].shape == (1, BATCH, 10)


def test_maps_lead_into_dense_layers_and_vectors_are_read_as_the_maps_they_are_said_to_be():
    dense = network([4, 6], connection=[DIGITS, {"name": "linear"}])
    assert dense.layers[1].connection.in_features == 4 * 6 * 7
    mapped = network([4], inputs=84, connection={**DIGITS, "map": [2, 6, 7]})
    assert mapped.layers[0].connection.shape == (4, 6, 7)


WRONG = [
    ({"padding": 3, "kernel": 3}, MAPS, "padding: 3 .* less than kernel: 3"),
    ({"map": [2, 6]}, MAPS, r"map: \[2, 6\] is not a shape; give \[channels, height, width\]"),
    ({"map": [2, 6, 6]}, 84, r"map: \[2, 6, 6\] holds 72 values; the signal has 84"),
    ({}, 84, r"a vector of 84.* map: \[channels, height, width\]"),
    ({}, (84,), "a vector of 84"),
    ({"kernel": 7}, MAPS, "kernel: 7 does not fit maps of 2 x 6 x 7; at most 6"),
    ({"kernel": 9, "padding": 1}, MAPS, "kernel: 9 .* at most 8"),
    ({"kernel": 3, "pool": 5}, MAPS, "pool: 5 does not fit maps of 2 x 6 x 7; at most 4"),
    ({"kernel": 0}, MAPS, "kernel: 0 is out of range"),
    ({"pooling": "mean"}, MAPS, "pooling: 'mean' is not allowed; choose from max, average"),
]


@pytest.mark.parametrize(("options", "inputs", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_key_value_and_what_is_allowed(options, inputs, message):
    with pytest.raises(RegistryError, match=message):
        connection(inputs=inputs, **options)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_operations_are_the_products_that_a_count_finds(geometry):
    link = connection(**geometry)
    events = (torch.rand(2, BATCH, math.prod(MAPS)) < 0.3).float() * torch.randn(())
    reached = torch.zeros(MAPS)
    size = link.weight.shape[-1]
    rows, columns = (range(side * link.pool) for side in link.shape[1:])
    for r, c, i, j in itertools.product(rows, columns, range(size), range(size)):
        row, column = r * link.stride + i - link.padding, c * link.stride + j - link.padding
        if 0 <= row < MAPS[1] and 0 <= column < MAPS[2]:
            reached[:, row, column] += link.shape[0]
    assert torch.equal(link.operations(events), ((events != 0) * reached.flatten()).sum(-1))
    assert link.operations(events).max() > 0


@pytest.mark.parametrize(
    ("neuron", "pooled"),
    [
        *(pytest.param(neuron, DIGITS, id=f"{neuron}-plain") for neuron in ZOO),
        *(
            pytest.param(neuron, pooled, id=f"{neuron}-{name}", marks=[pytest.mark.slow] * (neuron != "lif"))
            for neuron in ZOO
            for name, pooled in (("max", MAX_POOLED), ("average", AVERAGED))
        ),
    ],
)
def test_fresh_layers_of_every_neuron_neither_fall_silent_nor_saturate(neuron, pooled):
    options = {"name": neuron}
    if "input_gain" in registry.resolve("neurons", neuron).Options.model_fields:
        options["input_gain"] = "unit"
    record = ForwardRecord()
    net = network([16, 32], inputs=(3, 16, 16), neuron=options, connection=pooled, steps=8)
    net(torch.randn(1, 64, 3 * 16 * 16), None, record=record)
    for spikes in record.layer_spikes:
        rate = (spikes != 0).float().mean((0, 1, 2))
        assert 0.03 < rate.mean() < 0.75
        assert (rate == 0).float().mean() < 0.2
        assert (rate > 0.95).float().mean() < 0.3


def digits():
    """Training and test images [., 64] in 0 to 1, and their labels: 1,437 and 360 of scikit-learn's 8 x 8 digits."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn for its digits")
    found = datasets.load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32) / 16.0, torch.tensor(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return x[order[:1437]], y[order[:1437]], x[order[1437:]], y[order[1437:]]


def accuracy(epochs: int, seed: int) -> float:
    """On the test images, of 16C3-32C3-MP2 LIF neurons trained with Adam on minibatches of 64."""
    x, y, test_x, test_y = digits()
    neuron = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
    net = network([16, 32], (1, 8, 8), 10, seed, neuron=neuron, connection=[DIGITS, MAX_POOLED])
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            logits = net(x[batch][None], None)[0][0]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return (net(test_x[None], None)[0][0].argmax(-1) == test_y).float().mean().item()


def test_it_learns_digits_in_seconds():
    assert accuracy(epochs=3, seed=0) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_reads_97_of_100_digits_within_five_minutes(seed):
    started = time.process_time()
    found, seconds = accuracy(epochs=30, seed=seed), time.process_time() - started
    assert found >= 0.97 and seconds < 300.0, f"{found:.1%} in {seconds:.0f} s"
