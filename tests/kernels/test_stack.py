"""A whole stack in one call computes what its layers compute, to the bit, and its gradients are the reference's."""

import copy
import itertools
import threading

import pytest
import torch

from spiky_rl.codecs.decoders.membrane import Membrane
from spiky_rl.config import registry
from spiky_rl.kernels import precision
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import ForwardRecord
from tests.kernels.cases import CPU

INPUTS, OUTPUTS, LAYERS, BATCH, STEPS = 19, 3, [70, 33], 37, 4

PAID, SPARSE = {"name": "synops", "weight": 3.0}, {"name": "linear", "density": 0.3}

pytestmark = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)


def build(seed=0, inputs=INPUTS, layers=LAYERS, **settings):
    """Networks of one seed have the same weights. Gradients in float32, so that they can be compared."""
    torch.manual_seed(seed)
    base = {
        "name": "feedforward",
        "layers": layers,
        "steps": STEPS,
        "neuron": {"name": "lif", "tau": 2.0, "input_gain": "unit"},
        "gradient_precision": "float32",
    }
    return registry.configure("networks", {**base, **settings}, "network").build(
        inputs=inputs, outputs=OUTPUTS
    )


def observations(time=1, batch=BATCH, inputs=INPUTS, seed=1):
    return torch.randn(time, batch, inputs, generator=torch.Generator().manual_seed(seed))


def layer_by_layer(network, *arguments):
    """The same network on the same kernels, one layer after the other."""
    return network(*arguments, record=ForwardRecord())


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9)).item()


CODECS = list(itertools.product(["direct", "population"], ["membrane", "rate"]))


@pytest.mark.parametrize(("encoder", "decoder"), CODECS)
@pytest.mark.parametrize("batch", [1, 5, BATCH, 200])
def test_stack_rollout_and_layers_give_the_same_bits_whatever_the_batch(encoder, decoder, batch):
    network, x = build(encoder=encoder, decoder=decoder), observations(batch=200)
    before = CPU.launches["stack"]
    with torch.no_grad():
        whole, _ = network(x, None)
        part, _ = network(x[:, :batch], None)
        layers, _ = layer_by_layer(network, x[:, :batch], None)
    trained, _ = network(x[:, :batch], None)
    assert CPU.launches["stack"] == before + 3, "the stack ran"
    assert trained.requires_grad
    assert torch.equal(part, whole[:, :batch])
    assert torch.equal(part, layers)
    assert torch.equal(part, trained), "a rollout and an update must agree: PPO's ratio starts at 1"


@pytest.mark.parametrize(
    "settings",
    [{"sparsity": PAID}, {"connection": SPARSE}, {"connection": {**SPARSE, "dale": True}, "sparsity": PAID}],
    ids=str,
)
def test_penalties_and_masks_leave_the_stack_in_one_call(settings):
    network, x = build(**settings), observations()
    before = CPU.launches["stack"]
    with torch.no_grad():
        rollout, _ = network(x, None)
        layers, _ = layer_by_layer(network, x, None)
    trained, _ = network(x, None)
    assert CPU.launches["stack"] == before + 2, "a rollout and an update"
    assert torch.equal(rollout, layers) and torch.equal(rollout, trained)


@pytest.mark.parametrize("read", ["last", "mean", "max"])
def test_every_readout_of_the_potential_is_the_layers(read):
    network, x = build(decoder={"name": "membrane", "read": read}), observations()
    with torch.no_grad():
        assert torch.equal(network(x, None)[0], layer_by_layer(network, x, None)[0])


def test_a_replaced_layer_or_readout_takes_the_place_of_the_old_one():
    network, x = build(), observations()
    with torch.no_grad():
        network(x, None)
    network.decoder.readout = torch.nn.Linear(LAYERS[-1], OUTPUTS)
    network(x, None)[0].sum().backward()
    assert network.decoder.readout.weight.grad.any()
    network.layers[0].connection = copy.deepcopy(network.layers[0].connection)
    with torch.no_grad():
        network.layers[0].connection.weight.mul_(2.0)
        assert torch.equal(network(x, None)[0], layer_by_layer(network, x, None)[0])


@pytest.mark.parametrize("part", ["layer", "decoder"])
def test_a_replaced_layer_or_decoder_computes_features_and_gradients(part):
    network, other, x = build(), build(seed=1), observations()
    before, _ = network(x, None)
    if part == "layer":
        network.layers[0] = other.layers[0]
    else:
        network.decoder = other.decoder
    found = []
    for backend in ("cpu", "torch"):
        network.set_backend(backend)
        with torch.no_grad():
            rollout, _ = network(x, None)
        y, _ = network(x, None)
        assert torch.equal(rollout, y) and not torch.equal(y, before)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(network.parameters()))))
    assert all(relative(a, b) < 1e-5 for a, b in zip(*found, strict=True))


class BoundedPotentials(Membrane):
    def decode_potentials(self, potentials):
        return torch.tanh(super().decode_potentials(potentials))


class BoundedFeatures(Membrane):
    def forward(self, spikes, state, keep):
        features, new = super().forward(spikes, state, keep)
        return torch.tanh(features), new


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("bounded", [BoundedPotentials, BoundedFeatures])
def test_a_decoder_that_extends_the_membrane_is_called(bounded, read):
    decoder = {"name": f"{__name__}:{bounded.__name__}", "read": read}
    networks = [build(backend=backend, decoder=decoder) for backend in ("cpu", "torch")]
    x = 30.0 * observations()
    found = []
    for network in networks:
        with torch.no_grad():
            network.readout.weight.mul_(30.0)
            rollout, _ = network(x, None)
        y, _ = network(x, None)
        assert torch.equal(rollout, y) and y.abs().max() <= 1.0
        found.append((y, *torch.autograd.grad(y.sum(), list(network.parameters()))))
    assert all(relative(a, b) < 1e-5 for a, b in zip(*found, strict=True))


def test_a_layer_of_another_class_is_called():
    class Silent(SpikingLayer):
        def forward(self, *arguments):
            output, new = super().forward(*arguments)
            return torch.zeros_like(output), new

    network, other, x = build(), build(seed=1), observations()
    other.layers[1].__class__ = Silent
    network.layers[1] = other.layers[1]
    assert torch.equal(network(x, None)[0], network.readout.bias.expand(1, BATCH, OUTPUTS))


def test_a_replaced_recurrent_connection_takes_the_place_of_the_old_one():
    network, x = build(recurrent="recurrent"), observations()
    before, _ = network(x, None)
    network.layers[0].recurrent = copy.deepcopy(network.layers[0].recurrent)
    with torch.no_grad():
        network.layers[0].recurrent.weight.mul_(-3.0)
        after, _ = network(x, None)
        assert torch.equal(after, layer_by_layer(network, x, None)[0])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("gradients_on", [True, False])
def test_weights_may_be_plain_tensors_such_as_views_of_one_vector(name, gradients_on):
    network, x = build(), observations()
    expected, _ = network(x, None)
    for owner in (network.layers[1].connection, network.decoder.readout):
        value = owner.get_parameter(name).detach()
        delattr(owner, name)
        flat = value.flatten().clone().requires_grad_()
        setattr(owner, name, flat.view_as(value))
    with torch.set_grad_enabled(gradients_on):
        found, _ = network(x, None)
    assert torch.equal(found, expected)
    if gradients_on:
        found.sum().backward()
        assert flat.grad.any()


def test_state_in_and_out_and_the_keep_mask_are_the_layers():
    network, x = build(stateful=True), observations(time=3)
    keep = (torch.rand(3, BATCH, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    state = tuple(torch.rand_like(s) for s in network.zero_state(BATCH, x))
    with torch.no_grad():
        found, last = network(x, state, keep)
        expected, wanted = layer_by_layer(network, x, state, keep)
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(last, wanted, strict=True))
    fresh, _ = network(x[:1], None)
    rest, new = network(x[:1], network.zero_state(BATCH, x))
    assert torch.equal(fresh, rest) and len(new) == len(state), "no state is rest"


LEARNED = {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": ["tau", "threshold"]}
GRADIENTS = [
    {},
    {"recompute": True},
    {"encoder": "population"},
    {"encoder": "population", "recompute": True},
    {"decoder": "rate"},
    {"neuron": LEARNED},
    {"neuron": {"name": "sigma_delta"}},
    {"recurrent": "recurrent"},
    {"recurrent": "recurrent", "recompute": True},
    {"recurrent": {"name": "recurrent", "delays": 3}, "encoder": "population", "neuron": LEARNED},
    {"recurrent": "lateral"},
    {"recurrent": "recurrent", "neuron": {"name": "sigma_delta"}, "recompute": True},
    {"sparsity": PAID},
    {"sparsity": PAID, "encoder": "population", "recompute": True, "neuron": LEARNED},
    {"sparsity": {"name": "rate", "upper": 0.02, "weight": 3.0}, "decoder": "rate"},
    {"sparsity": PAID, "recurrent": {"name": "recurrent", "delays": 3}},
    {"sparsity": PAID, "neuron": {"name": "sigma_delta"}},
    {"connection": SPARSE},
    {"connection": {**SPARSE, "dale": True}, "sparsity": PAID},
]


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("settings", GRADIENTS, ids=str)
def test_gradients_of_everything_are_the_torch_references(settings, stateful):
    found, wanted = build(stateful=stateful, **settings), build(
        stateful=stateful, backend="torch", **settings
    )
    time = 3 if stateful else 1
    keep = (torch.rand(time, BATCH, generator=torch.Generator().manual_seed(2)) > 0.4).float()
    gradients, before = [], observations(seed=5)
    with torch.no_grad():  # what a rollout leaves: what a recurrent layer sent last are spikes
        _, left = wanted(before, wanted.zero_state(BATCH, before)) if stateful else (None, ())
    for network in (found, wanted):
        x = observations(time=time).requires_grad_()
        state = tuple(s.clone().requires_grad_() for s in left) if stateful else None
        y, last = network(x, state, keep if stateful else None)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        loss = (y * weights).sum() + sum(s.pow(2).sum() for s in last)
        inputs = [x, *(state or ()), *network.parameters()]
        gradients.append((y, torch.autograd.grad(loss, inputs)))
    (y, got), (reference, expected) = gradients
    # a sum in another order flips a spike now and then: with this seed none, or gradients could not be compared
    assert relative(y, reference) < 1e-5
    assert all(relative(a, b) < 2e-5 for a, b in zip(got, expected, strict=True))


def test_bfloat16_input_gradients_leave_the_forward_alone_and_the_gradient_nearly():
    if precision.FLAGS.isdisjoint(precision.read_cpu_flags()):
        pytest.skip("this CPU does not multiply bfloat16 matrices")
    exact, rough, x = build(), build(gradient_precision="bfloat16"), observations(batch=256)
    y, z = exact(x, None)[0], rough(x, None)[0]
    assert torch.equal(y, z)
    for network, out in ((exact, y), (rough, z)):
        out.pow(2).mean().backward()
        assert all(p.grad is not None for p in network.parameters()), network
    flat = [torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (exact, rough)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.9999
    assert not torch.equal(*flat), "the option does something"
    last = [next(iter(network.decoder.parameters())).grad for network in (exact, rough)]
    assert torch.equal(*last), "what is above the first input gradient is exact"


@pytest.mark.parametrize("gradient_precision", ["float32", "bfloat16"])
def test_an_input_gradient_has_the_same_bits_whatever_the_batch(gradient_precision):
    if gradient_precision == "bfloat16" and precision.FLAGS.isdisjoint(precision.read_cpu_flags()):
        pytest.skip("this CPU does not multiply bfloat16 matrices")
    # a product takes eight rows at once, and an odd width of a layer leaves half of a pair
    network = build(layers=[33, 21], steps=1, gradient_precision=gradient_precision)
    x = observations(batch=11)
    gradients = []
    for batch in range(1, 12):
        part = x[:, :batch].clone().requires_grad_()
        network(part, None)[0].square().sum().backward()
        gradients.append(part.grad)
    assert all(torch.equal(gradient, gradients[-1][:, : gradient.shape[1]]) for gradient in gradients)
    assert gradients[-1].flatten(0, 1).any(1).all()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"GenuineIntel", "avx512_bf16"}, False),
        ({"GenuineIntel", "avx512_bf16", "amx_bf16"}, True),
        ({"AuthenticAMD", "avx512_bf16"}, True),
        ({"bf16"}, True),
        ({"AuthenticAMD", "avx2"}, False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_than_float32(monkeypatch, words, expected):
    monkeypatch.setattr(precision, "read_cpu_flags", lambda: frozenset(words))
    assert precision.has_fast_bfloat16.__wrapped__() == expected


def test_recompute_keeps_bits_instead_of_currents():
    x, kept = observations(batch=256), {}
    for recompute in (False, True):
        network, sizes = build(recompute=recompute), []
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def pack(t, sizes=sizes, weights=weights):
            if t.untyped_storage().data_ptr() not in weights | {x.untyped_storage().data_ptr()}:
                sizes.append(t.numel() * t.element_size())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            network(x, None)
        kept[recompute] = sum(sizes)
    spikes = STEPS * 256 * (128 + 64) // 8  # widths 70 and 33 in whole words
    assert kept[True] == spikes
    assert kept[False] > 5 * spikes


@pytest.mark.parametrize("fused", [True, False], ids=["stack", "layers"])
@pytest.mark.parametrize("settings", [{}, {"neuron": LEARNED}, {"encoder": "population"}], ids=str)
def test_recompute_changes_no_bit(settings, fused):
    results = []
    for recompute in (False, True):
        network, x = build(stateful=True, recompute=recompute, **settings), observations(time=3)
        network._can_use_stack = fused
        state = tuple(s + 0.1 for s in network.zero_state(BATCH, x))
        keep = (torch.rand(3, BATCH, generator=torch.Generator().manual_seed(2)) > 0.4).float()
        y, last = network(x, state, keep)
        loss = y.pow(2).sum() + sum(s.pow(2).sum() for s in last)
        results.append([y, *last, *torch.autograd.grad(loss, list(network.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_one_and_two_threads_give_the_same_forward_and_nearly_the_same_gradient():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            network, x = build(neuron=LEARNED), observations(batch=300)
            y, _ = network(x, None)
            y.pow(2).sum().backward()
        finally:
            torch.set_num_threads(1)
        results.append((y, [p.grad for p in network.parameters()]))
    (y, got), (z, expected) = results
    assert torch.equal(y, z)
    assert all(relative(a, b) < 1e-5 for a, b in zip(got, expected, strict=True))


def test_a_weight_that_changes_in_place_or_is_replaced_is_seen_by_the_next_rollout():
    network, x = build(), observations()
    with torch.inference_mode():
        before, _ = network(x, None)
    network.layers[0].connection.weight.data.mul_(2.0)
    network.decoder.readout.weight.data.add_(0.1)
    with torch.inference_mode():
        changed, _ = network(x, None)
        assert torch.equal(changed, layer_by_layer(network, x, None)[0])
    assert not torch.equal(changed, before)
    network.layers[1].connection.weight = torch.nn.Parameter(network.layers[1].connection.weight * 3.0)
    network.surrogate.slope = 5.0
    with torch.inference_mode():
        assert torch.equal(network(x, None)[0], layer_by_layer(network, x, None)[0])


def test_a_weight_in_strides_is_read_anew_by_every_rollout():
    network, x = build(), observations()
    weight = network.layers[0].connection.weight
    network.layers[0].connection.weight = torch.nn.Parameter(weight.detach().t().contiguous().t())
    with torch.no_grad():
        before, _ = network(x, None)
        network.layers[0].connection.weight.mul_(2.0)
        after, _ = network(x, None)
        assert torch.equal(after, layer_by_layer(network, x, None)[0]) and not torch.equal(after, before)


def test_a_weight_that_is_transposed_in_place_is_read_anew():
    network, x = build(layers=[16, 16]), observations()
    weight = network.layers[1].connection.weight
    with torch.no_grad():
        before, _ = network(x, None)
        weight.data = weight.data.t()
        after, _ = network(x, None)
        assert torch.equal(after, layer_by_layer(network, x, None)[0]) and not torch.equal(after, before)


def test_a_bias_that_becomes_a_strided_view_of_its_memory_is_read_anew():
    network, x = build(), observations()
    values = torch.randn(2 * LAYERS[0])
    with torch.no_grad():
        network.layers[0].connection.bias.data = values[: LAYERS[0]]
        before, _ = network(x, None)
        network.layers[0].connection.bias.data = values[::2]  # the same address and size
        after, _ = network(x, None)
        assert torch.equal(after, layer_by_layer(network, x, None)[0]) and not torch.equal(after, before)


def test_a_weight_that_shrinks_in_place_is_refused():
    network, x = build(), observations()
    link = network.layers[1].connection
    with torch.no_grad():
        network(x, None)
        link.weight.data = link.weight.data[:8]
        with pytest.raises(ValueError, match="weight: shape"):
            network(x, None)


def test_a_copy_of_a_network_has_weights_of_its_own():
    network, x = build(), observations()
    with torch.inference_mode():
        before, _ = network(x, None)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        network.layers[0].connection.weight.zero_()
        network(x, None)
    with torch.inference_mode():
        assert torch.equal(copied(x, None)[0], before)


def test_hooks_of_a_copy_are_called_after_the_original_ran():
    network, x = build(), observations()
    network(x, None)
    called: list[str] = []
    copied = copy.deepcopy(network)
    copied.layers[0].connection.register_forward_hook(lambda *_: called.append("copy"))
    network(x, None)
    assert not called
    copied(x, None)
    assert called


WEIGHT_CHANGES = {
    "in place": lambda link: link.weight.data.mul_(2.0),
    "replaced": lambda link: setattr(link, "weight", torch.nn.Parameter(link.weight.detach() * 2.0)),
    "transposed": lambda link: setattr(link.weight, "data", link.weight.data.t()),
    "in strides": lambda link: setattr(link.weight, "data", link.weight.data.t().contiguous().t().mul(2.0)),
}


@pytest.mark.parametrize("change", WEIGHT_CHANGES)
def test_gradients_are_those_of_weights_that_change_between_updates(change):
    network, x = build(layers=[16, 16]), observations()
    link = network.layers[1].connection

    def learn(run):
        network.zero_grad()
        features = run()
        features.square().sum().backward()
        return [features.detach(), *(p.grad for p in network.parameters())]

    before = learn(lambda: network(x, None)[0])
    for _ in range(2):
        WEIGHT_CHANGES[change](link)
        after = learn(lambda: network(x, None)[0])
        expected = learn(lambda: layer_by_layer(network, x, None)[0])
        assert torch.equal(after[0], expected[0]) and not torch.equal(after[0], before[0])
        assert all(
            relative(found, right) < 1e-5 for found, right in zip(after[1:], expected[1:], strict=True)
        )
        before = after


class GivenParameters(torch.nn.Module):
    """Parameters that differ between neurons and are not learned, as a graph's file has them."""

    def __init__(self, values, width):
        super().__init__()
        self.values = [torch.linspace(0.9, 1.0, width) * value for value in values]

    def forward(self):
        return tuple(self.values)


def test_parameters_that_differ_between_neurons_need_not_be_learned():
    network, x = build(), observations()
    for layer in network.layers:
        layer.parameters_of_neuron = GivenParameters(layer.parameters_of_neuron(), layer.width)
    with torch.inference_mode():
        expected = layer_by_layer(network, x, None)[0]
        assert torch.equal(network(x, None)[0], expected) and torch.equal(network(x, None)[0], expected)
    trained = network(x, None)[0]
    assert trained.requires_grad and torch.equal(trained, expected)


def test_a_connection_without_a_bias_runs_in_rollouts_as_in_updates():
    network, x = build(), observations()
    network.layers[0].connection.bias = None
    trained = network(x, None)[0]
    with torch.inference_mode():
        assert torch.equal(network(x, None)[0], trained) and torch.equal(network(x, None)[0], trained)


def test_threads_of_the_caller_may_share_a_network():
    network = build()
    inputs = [observations(batch=b + 1, seed=b) for b in range(8)]
    with torch.inference_mode():
        expected = [network(x, None)[0] for x in inputs]
    wrong = []

    def run(i):
        with torch.inference_mode():
            for _ in range(50):
                if not torch.equal(network(inputs[i], None)[0], expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_types_smooth_spikes_and_named_torch_do_not_run_the_stack():
    before = sum(CPU.launches.values())
    x = observations()
    build().double()(x.double(), None)
    soft = build()
    soft.soft_spike = True
    soft(x, None)
    build(backend="torch")(x, None)
    assert sum(CPU.launches.values()) == before


def halve(module, args, output):
    return 0.5 * output


def pruned(connection):
    from torch.nn.utils import prune

    prune.l1_unstructured(connection, "weight", amount=0.5)


CHANGES = {
    "hook": lambda network: network.layers[1].connection.register_forward_hook(halve),
    "pruning": lambda network: pruned(network.layers[0].connection),
    "pruned readout": lambda network: pruned(network.decoder.readout),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_a_connection_is_honoured(change):
    network, x = build(), observations()
    with torch.inference_mode():
        before, _ = network(x, None)
    CHANGES[change](network)
    with torch.inference_mode():
        after, _ = network(x, None)
        assert torch.equal(after, layer_by_layer(network, x, None)[0])
    assert not torch.equal(before, after)


def test_hooks_of_layers_and_decoder_are_called_in_rollouts_and_updates():
    network, x, called = build(), observations(), []
    with torch.inference_mode():
        expected, _ = network(x, None)
    handles = [
        network.layers[0].register_forward_hook(lambda *_: called.append("layer")),
        network.decoder.register_forward_pre_hook(lambda *_: called.append("decoder")),
    ]
    with torch.inference_mode():
        assert torch.equal(network(x, None)[0], expected)
    assert called == ["layer", "decoder"]
    for handle in handles:
        handle.remove()
    network.layers[1].connection.register_full_backward_hook(lambda *_: called.append("gradient"))
    network(x, None)[0].sum().backward()
    assert called[2:] == ["gradient"]


@pytest.mark.parametrize(
    "register",
    [
        torch.nn.modules.module.register_module_forward_hook,
        torch.nn.modules.module.register_module_forward_pre_hook,
        torch.nn.modules.module.register_module_full_backward_hook,
        torch.nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_hooks_of_all_modules_are_called_as_by_the_reference(register):
    called = []
    for backend in ("cpu", "torch"):
        network, names = build(backend=backend), []
        handle = register(lambda module, *_, names=names: names.append(type(module).__name__))
        network(observations().requires_grad_(), None)[0].sum().backward()
        handle.remove()
        called.append(names)
    assert called[0] == called[1] and called[0].count("LinearConnection") == len(LAYERS)


@pytest.mark.parametrize("settings", [{}, {"sparsity": PAID}], ids=str)
def test_the_default_device_of_torch_changes_nothing(settings):
    found = []
    for device in ("cpu", "meta"):
        network, x = build(**settings), observations()
        with torch.device(device):
            network(x, None)[0].square().sum().backward()
        found.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_parameters_in_another_type_are_converted_and_recurrent_weights_refused():
    network, x = build(neuron=LEARNED, recurrent="recurrent"), observations()
    expected, _ = network(x, None)
    network.layers[0].parameters_of_neuron.double()
    found, _ = network(x, None)
    assert torch.equal(found, layer_by_layer(network, x, None)[0])
    assert relative(found, expected) < 0.1
    found.sum().backward()
    assert all(p.grad.dtype == torch.float64 for p in network.layers[0].parameters_of_neuron.parameters())
    network.layers[1].recurrent.half()
    for gradients_on in (True, False):
        with torch.set_grad_enabled(gradients_on), pytest.raises(TypeError, match="torch.float16"):
            network(x, None)


@pytest.mark.parametrize("encoder", ["direct", "population"])
def test_recompute_keeps_soft_spikes_as_they_are(encoder):
    x, found = observations(), []
    for recompute in (False, True):
        network = build(recompute=recompute, encoder=encoder)
        network.soft_spike = True
        y, _ = network(x, None)
        found.append(torch.autograd.grad(y.square().sum(), list(network.layers.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("learn", [(), ("tau",)], ids=["weights", "neurons"])
@pytest.mark.parametrize("fused", [True, False], ids=["stack", "layers"])
def test_parameters_of_a_functional_call_get_their_gradients_or_an_error_from_recompute(fused, learn):
    found, x = [], observations()
    for recompute in (False, True):
        network = build(recompute=recompute, neuron={"name": "lif", "learn": list(learn)})
        network._can_use_stack = fused
        values = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
        y, _ = torch.func.functional_call(network, values, (x, None))
        if recompute and not fused:
            with pytest.raises(RuntimeError, match="recompute: the layer's parameters were replaced"):
                y.sum().backward()
        else:
            found.append(torch.autograd.grad(y.sum(), list(values.values())))
    assert all(grad.any() for grad in found[0])
    assert all(torch.equal(a, b) for grads in found for a, b in zip(grads, found[0], strict=True))
