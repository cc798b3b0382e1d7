"""The kernels are operators: torch checks them, compiles and exports networks of them whole, and refuses what they cannot do."""

import copy
import io
import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from spiky_rl.config import registry
from spiky_rl.config.options import option
from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch, emit, programs
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.networks.base import ForwardRecord
from spiky_rl.neurons.base import Neuron, parameter
from tests.kernels.cases import CPU, vocabulary

INPUTS, OUTPUTS, LAYERS, BATCH, STEPS, TIME, WIDTH = 11, 3, [14, 9], 6, 3, 2, 7
CLOSE = 1e-6
LEARNED = {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": ["tau", "threshold"]}
DYNAMIC = torch.export.Dim.DYNAMIC
CODECS = list(itertools.product(["direct", "population"], ["membrane", "rate"]))

pytestmark = [
    pytest.mark.skipif(
        CPU.get_unavailable_reason() is not None,
        reason=f"no compiled kernels: {CPU.get_unavailable_reason()}",
    ),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable"),  # torch.export.load
]


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    torch.compiler.reset()
    counters.clear()


def generator(seed):
    return torch.Generator().manual_seed(seed)


def build(seed=0, **settings):
    """Networks of one seed have the same weights. Gradients in float32, so that they can be compared."""
    torch.manual_seed(seed)
    neuron = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
    base = {"name": "feedforward", "layers": LAYERS, "steps": STEPS, "neuron": neuron}
    settings = {**base, "gradient_precision": "float32", **settings}
    return registry.configure("networks", settings, "network").build(inputs=INPUTS, outputs=OUTPUTS)


def observations(time=1, batch=BATCH, seed=1):
    return 2.0 * torch.randn(time, batch, INPUTS, generator=generator(seed))


def carried(network, time=TIME, batch=BATCH):
    """What a stateful network is called with."""
    x = observations(time, batch)
    state = [torch.rand(s.shape, generator=generator(2)) for s in network.zero_state(batch, x)]
    return x, tuple(state), (torch.rand(time, batch, generator=generator(3)) > 0.4).float()


def compiled(network, backend="aot_eager"):
    return torch.compile(network, fullgraph=True, backend=backend)


def loss_of(y, last=()):
    return (y * torch.randn(y.shape, generator=generator(4))).sum() + sum(s.pow(2).sum() for s in last)


def gradients(network, run, *arguments, record=None):
    """Outputs of ``run``, and the gradients of the network's parameters. With ``record`` it runs layer by layer."""
    y, last = run(*arguments, **({"record": record()} if record else {}))
    return (y, *last), torch.autograd.grad(loss_of(y, last), list(network.parameters()))


def near(found, expected):
    pairs = zip(found, expected, strict=True)
    return all((a - b).abs().max() <= CLOSE * b.abs().max() for a, b in pairs)


def same(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def called(name, varying):
    neuron = registry.configure("neurons", name, "neuron").build()
    ops = TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build())
    numbers = [neuron.get_step_value(name) for name in neuron.params]
    values = tuple(torch.full((WIDTH,), n) if varying else n for n in numbers)
    return neuron, ops, programs.prepare_call(neuron, ops, values, WIDTH)


def unroll_arguments(state, params, keep, constant):
    neuron, _, call = called("alif", params)
    g, count = generator(5), len(neuron.states)
    current = 2.0 * torch.randn(TIME, 1 if constant else STEPS, BATCH, WIDTH, generator=g)
    before = torch.rand(count, BATCH, WIDTH, generator=g) if state else None
    mask = (torch.rand(TIME, BATCH, generator=g) > 0.5).float() if keep else None
    tensors = [current, before, call.params]
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    return (*tensors, mask, list(call.numbers), STEPS, call.key, state)


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("name", registry.list_names("neurons"))
def test_a_neuron_in_words_is_its_program(name, varying):
    neuron, ops, call = called(name, varying)
    words = programs.serialize_key(neuron, ops, (varying,) * len(neuron.params))
    assert words not in programs.PROGRAMS
    assert programs.resolve_key(words, call.numbers) == programs.resolve_key(call.key, call.numbers)
    assert programs.count_states(words) == len(neuron.states)


@pytest.mark.parametrize("rule", registry.list_names("rules"))
@pytest.mark.parametrize("varying", [False, True])
def test_the_neuron_of_every_rule_is_found_by_its_words(rule, varying):
    wrap = registry.configure("rules", rule, "rule").build().wrap_neuron
    neuron = wrap(registry.configure("neurons", {**LEARNED, "threshold": 0.7}, "neuron").build())
    ops = TorchOps(registry.configure("surrogates", "arctangent", "surrogate").build())
    values = tuple(torch.ones(WIDTH) if varying else neuron.get_step_value(name) for name in neuron.params)
    call = programs.prepare_call(neuron, ops, values, WIDTH)
    words = programs.serialize_key(neuron, ops, (varying,) * len(values))
    assert programs.resolve_key(words, call.numbers) == programs.resolve_key(call.key, call.numbers)
    assert programs.count_states(words) == len(neuron.states)


@pytest.mark.parametrize(
    ("kind", "settings", "others"),
    [
        ("neurons", {"name": "izhikevich", "peak": 30.0}, {"peak": 40.0}),
        ("neurons", {"name": "quadratic", "dt": 1.0}, {"dt": 0.5}),
        ("surrogates", {"name": "exponential", "scale": 3.0}, {"scale": 4.0}),
    ],
    ids=["threshold", "step", "surrogate"],
)
def test_a_number_that_only_the_host_computes_with_makes_another_program(kind, settings, others):
    uniforms = []
    for chosen in (settings, {**settings, **others}):
        of = {"neurons": "lif", "surrogates": "arctangent", kind: chosen}
        neuron, surrogate = (registry.configure(each, part, each).build() for each, part in of.items())
        values = tuple(map(neuron.get_step_value, neuron.params))
        call = programs.prepare_call(neuron, TorchOps(surrogate), values, WIDTH)
        numbers = {f"parameter {name}": value for name, value in zip(neuron.params, values, strict=True)}
        numbers["slope"] = surrogate.slope
        assert [*call.uniforms] == emit.build_program(neuron, surrogate, (False,) * len(values)).uniforms(
            numbers
        )
        uniforms.append(call.uniforms)
    assert uniforms[0] != uniforms[1]


class Listed(Neuron):
    """v <- taus[0] v + i, capped."""

    states = ("v",)

    class Options(Neuron.Options):
        gain: float = parameter(1.5, "gain", unit="1")
        taus: list[float] = option([0.5, 2.0], "numbers")
        cap: float = option(math.inf, "largest potential")

    def step(self, ops, current, s, p):
        v = self.chosen["taus"][0] * s.v + p.gain * current
        v = v if math.isinf(self.chosen["cap"]) else ops.min(v, self.chosen["cap"])
        spike = ops.spike(v - 1.0)
        return spike, s.replace(v=v * (1.0 - ops.detach(spike)))


def test_options_may_be_lists_and_infinite_by_default():
    keys = []
    for options in ({}, {"taus": [0.25, 2.0]}, {"cap": 3.0}):
        neuron, ops = Listed.from_options(**options), vocabulary()
        call = programs.prepare_call(neuron, ops, (1.5,), WIDTH)
        words = programs.serialize_key(neuron, ops, (False,))
        assert programs.resolve_key(words, call.numbers) == programs.resolve_key(call.key, call.numbers)
        keys.append(call.key)
    assert len(set(keys)) == len(keys)
    network, x = build(neuron=f"{__name__}:Listed"), observations()
    with torch.no_grad():
        assert torch.equal(compiled(network)(x, None)[0], network(x, None)[0])


SWITCHES = ["", "state constant", "params keep constant", "state params keep"]


@pytest.mark.parametrize(
    "switches", [*(pytest.param(s, marks=pytest.mark.slow) for s in SWITCHES[:3]), SWITCHES[3]]
)
def test_unroll_passes_all_checks_of_torch(switches):
    names = ("state", "params", "keep", "constant")
    arguments = unroll_arguments(*(name in switches for name in names))
    opcheck(torch.ops.spiky_rl.unroll.default, arguments)
    output, last = torch.ops.spiky_rl.unroll(*arguments)
    given = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments[:-1]]
    grads = torch.ones_like(output), torch.ones_like(last) if arguments[-1] else None
    opcheck(torch.ops.spiky_rl.unroll_backward.default, (*given, *grads))


FAST_LINEAR = [(False, False, True), (True, True, False)]


@pytest.mark.parametrize(
    ("binary", "biased", "bfloat16"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST_LINEAR))
        for case in itertools.product([False, True], repeat=3)
    ],
)
def test_linear_passes_all_checks_of_torch(binary, biased, bfloat16):
    g = generator(6)
    x = torch.randn(TIME, BATCH, 70, generator=g)
    x = (x > 0.5).float() if binary else x
    weight = torch.randn(70, WIDTH, generator=g).t()  # as the layers hold it
    bias = torch.randn(WIDTH, generator=g).requires_grad_() if biased else None
    arguments = (x.requires_grad_(), weight.requires_grad_(), bias, binary, bfloat16)
    opcheck(torch.ops.spiky_rl.linear.default, arguments)
    y, bits = torch.ops.spiky_rl.linear(*arguments)
    saved = bits if binary else x.detach()
    given = (saved, weight.detach(), torch.ones_like(y), binary, bfloat16, biased)
    for inputs in (False, True):
        opcheck(torch.ops.spiky_rl.linear_backward.default, (*given, inputs))


def test_arguments_in_strides_give_the_bits_and_gradients_of_arguments_in_one_piece():
    *tensors, keep, numbers, steps, key, last = unroll_arguments(True, True, True, False)
    row, found = tensors[0].detach()[:, :, :1].clone().requires_grad_(), []
    for turn in (lambda t: t, lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2)):
        state, params = (turn(t.detach()).requires_grad_() for t in tensors[1:])
        current = turn(row).expand(-1, -1, BATCH, -1) if found else row.repeat(1, 1, BATCH, 1)
        y, after = torch.ops.spiky_rl.unroll(current, state, params, keep, numbers, steps, key, last)
        found.append([y, after, *torch.autograd.grad(loss_of(y, [after]), [row, state, params])])
    assert same(found[0], found[1]) and found[0][2].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_state_in_another_type_has_the_gradient_of_its_values(dtype):
    *given, keep, numbers, steps, key, last = unroll_arguments(True, False, True, False)
    current, state = given[0], given[1].detach().to(dtype)
    found = []
    for before in (state.float(), state):
        before.requires_grad_()
        y, after = torch.ops.spiky_rl.unroll(current, before, None, keep, numbers, steps, key, last)
        found.append(torch.autograd.grad(loss_of(y, [after]), [current, before]))
    (of_current, of_state), (same_current, converted) = found
    assert torch.equal(same_current, of_current) and torch.equal(converted, of_state.to(dtype))
    assert of_state.abs().sum() > 0


COMPILED = [
    *({"encoder": encoder, "decoder": decoder} for encoder, decoder in CODECS),
    {"neuron": LEARNED},
    {"neuron": "izhikevich"},
    {"neuron": LEARNED, "recompute": True, "backend": "cpu"},
    {"backend": "torch"},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", COMPILED, ids=str)
def test_a_compiled_network_is_the_eager_one(settings):
    network, x = build(**settings), observations()
    expected, wanted = gradients(network, network, x, None)
    found, got = gradients(network, compiled(network), x, None)
    assert same(found, expected)
    assert near(got, wanted)


@pytest.mark.parametrize(
    "settings", [{"neuron": LEARNED}, pytest.param({"decoder": "rate"}, marks=pytest.mark.slow)], ids=str
)
def test_a_compiled_network_carries_its_state_and_obeys_the_keep_mask(settings):
    network = build(stateful=True, **settings)
    x, state, keep = carried(network)
    expected, wanted = gradients(network, network, x, state, keep)
    found, got = gradients(network, compiled(network), x, state, keep)
    assert same(found, expected) and len(found) == 1 + len(state)
    assert near(got, wanted)
    assert not torch.equal(expected[0], network(x, state)[0]), "the mask does something"


@pytest.mark.slow
def test_inductor_compiles_a_network():
    network, x = build(layers=[5]), observations()
    expected, wanted = gradients(network, network, x, None)
    found, got = gradients(network, compiled(network, "inductor"), x, None)
    assert near(found, expected) and near(got, wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_compiled_rollout_is_one_graph_of_operators(mode):
    network, x = build(), observations()
    graphs = []

    def look(graph, _):
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    with mode():
        assert torch.equal(compiled(network, look)(x, None)[0], network(x, None)[0])
    assert len(graphs) == 1
    assert graphs[0].count(torch.ops.spiky_rl.unroll) == len(LAYERS) + 1


@pytest.mark.slow
def test_a_second_call_is_not_compiled_again_and_new_weights_and_slopes_are_seen():
    network, x = build(), observations()
    run = compiled(network)
    gradients(network, run, x, None)
    gradients(network, run, observations(seed=7), None)
    assert counters["stats"]["unique_graphs"] == 1
    _, before = gradients(network, network, x, None)
    for slope in (5.0, 7.0):
        network.surrogate.slope = slope
        _, wanted = gradients(network, network, x, None)
        assert near(gradients(network, run, x, None)[1], wanted) and not near(before, wanted)
    with torch.no_grad():
        network.layers[0].connection.weight.mul_(1.5)
    expected, wanted = gradients(network, network, x, None)
    found, got = gradients(network, run, x, None)
    assert same(found, expected) and near(got, wanted)


@pytest.mark.slow
def test_networks_that_differ_in_one_setting_do_not_share_a_graph():
    neuron = {"name": "lif", "tau": 2.0, "input_gain": "unit"}
    neurons = [neuron, {**neuron, "tau": 4.0}, {**neuron, "reset": "zero"}]
    x, seen = observations(), []
    for settings in (*({"neuron": n} for n in neurons), {"surrogate": "triangle"}):
        network = build(**settings)
        expected, wanted = gradients(network, network, x, None)
        found, got = gradients(network, compiled(network), x, None)
        assert same(found, expected) and near(got, wanted), settings
        seen.append(wanted)
    assert not any(near(a, b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.slow
def test_a_scheduled_slope_compiles_with_a_break_and_follows_the_schedule():
    network, x = build(surrogate={"name": "arctangent", "schedule": [20.0, 2]}), observations()
    run, seen = torch.compile(network, backend="aot_eager"), []
    for _ in range(3):
        _, wanted = gradients(network, network, x, None)
        assert near(gradients(network, run, x, None)[1], wanted)
        seen.append(wanted)
        network.count_update()
    assert not near(seen[0], seen[1]) and not near(seen[1], seen[2])


TRACED = [{}, {"recompute": True}, {"stateful": True, "recurrent": "recurrent"}]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes are read while it traces
@pytest.mark.parametrize("settings", TRACED, ids=str)
@pytest.mark.parametrize("tracer", ["make_fx", "jit.trace"])
def test_a_traced_rollout_calls_the_kernels(tracer, settings):
    network = build(**settings).requires_grad_(False)

    def run(x):
        return network(x, network.zero_state(BATCH, x) if network.stateful else None)[0]

    with torch.no_grad():
        x, other = observations(), observations(seed=7)
        graph = make_fx(run)(x) if tracer == "make_fx" else torch.jit.trace(run, x)
        assert torch.equal(graph(other), run(other))


@pytest.mark.parametrize("settings", TRACED, ids=str)
@pytest.mark.parametrize("recorded", [False, True], ids=["rollout", "update"])
def test_a_network_of_fake_tensors_gives_fake_features(recorded, settings):
    network = build(**settings)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.set_grad_enabled(recorded):
        x = mode.from_tensor(observations())
        y, _ = network(x, network.zero_state(BATCH, x) if network.stateful else None)
    assert y.shape == (1, BATCH, OUTPUTS)


def exported(network, x, state=None, keep=None, strict=False):
    batch = {1: DYNAMIC}
    shapes = (batch, None) if state is None else (batch, (batch,) * len(state), batch)
    arguments = (x, None) if state is None else (x, state, keep)
    return torch.export.export(network, arguments, dynamic_shapes=shapes, strict=strict)


EXPORTED = [
    pytest.param(False, {}, marks=pytest.mark.slow),
    pytest.param(True, {}, marks=pytest.mark.slow),
    (False, {"stateful": True, "neuron": LEARNED}),
]


@pytest.mark.parametrize(("strict", "settings"), EXPORTED, ids=str)
def test_an_exported_network_is_the_eager_one_at_any_batch_saved_and_loaded(strict, settings):
    network = build(**settings)
    arguments = carried(network) if network.stateful else (observations(), None)
    file = io.BytesIO()
    torch.export.save(exported(network, *arguments, strict=strict), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (BATCH, 4 * BATCH + 1):
        given = carried(network, batch=batch) if network.stateful else (observations(batch=batch), None)
        expected, wanted = gradients(network, network, *given)
        found, got = gradients(loaded, loaded, *given)
        assert same(found, expected) and near(got, wanted)


SCRIPT = """
import sys, torch
import spiky_rl.kernels.operators
x, expected = torch.load(sys.argv[2])
found, _ = torch.export.load(sys.argv[1]).module()(x, None)
assert torch.equal(found, expected)
"""


def test_a_surrogate_whose_slope_may_not_be_1_is_compiled(tmp_path):
    (tmp_path / "steep.py").write_text(STEEP, encoding="utf-8")
    network = build(surrogate=f"{tmp_path}/steep.py:Steep")
    x = observations()
    found = [
        torch.autograd.grad(run(x, None)[0].square().sum(), list(network.parameters()))
        for run in (network, compiled(network))
    ]
    assert all(torch.allclose(a, b, atol=CLOSE) and a.any() for a, b in zip(*found, strict=True))


STEEP = '''"""Triangle: max(0, 1 - k |x|)."""
from spiky_rl.config.options import option
from spiky_rl.surrogates.base import Surrogate


class Steep(Surrogate):
    class Options(Surrogate.Options):
        slope: float = option(5.0, "k: inverse half-width", low=2.0)

    def derivative(self, ops, x, slope):
        return ops.max(1.0 - slope * ops.abs(x), 0.0)

    def primitive(self, ops, x, slope):
        return 0.0 * x + 0.5
'''


@pytest.mark.slow
def test_an_exported_network_runs_in_a_process_that_never_saw_its_neuron(tmp_path):
    network, x = build(neuron="alif"), observations()
    torch.export.save(exported(network, x), tmp_path / "network.pt2")
    torch.save((x, network(x, None)[0].detach()), tmp_path / "values.pt")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "network.pt2"), str(tmp_path / "values.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr


REFUSED = [{}, {"recompute": True}, {"backend": "torch", "recompute": True}]


@pytest.mark.parametrize("fused", [True, False], ids=["stack", "layers"])
@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_a_second_derivative_is_refused(settings, fused):
    network, x = build(**settings), observations().requires_grad_()
    network._can_use_stack = fused
    y, _ = network(x, None)
    with pytest.raises(RuntimeError, match="no second derivative; backend: torch has, without recompute"):
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (y.sum() + slope.pow(2).sum()).backward()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("transform", ["jvp", "vmap", "jacrev", "dual"])
def test_transforms_of_functions_take_the_reference(transform, mode):
    """Compare with sums of what backward mode gives; the kernels support no transform."""
    network, x, v = build(), observations(), observations(seed=2)
    expected = torch.autograd.functional.jacobian(lambda x: network(x, None)[0], x)

    def compute(network):
        def run(x):
            return network(x, None)[0]

        with mode():
            if transform == "vmap":
                return torch.vmap(run)(torch.stack([x, v]))
            if transform == "jvp":
                return torch.func.jvp(run, (x,), (v,))[1]
            if transform == "jacrev":
                return torch.func.jacrev(run)(x)
            with forward_ad.dual_level():
                return forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent

    if transform == "vmap":
        expected = torch.stack([network(signal, None)[0] for signal in (x, v)])
    elif transform != "jacrev":
        expected = torch.tensordot(expected, v, v.dim())
    torch.testing.assert_close(compute(network), expected)
    with pytest.raises(RegistryError, match="'cpu' supports neither torch.func nor .*; backend: torch does"):
        compute(build(backend="cpu"))


@pytest.mark.parametrize("record", [None, ForwardRecord], ids=["stack", "layers"])
@pytest.mark.parametrize("decoder", ["membrane", "rate"])
def test_autocast_changes_nothing(record, decoder):
    network, x = build(decoder=decoder), observations()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(gradients(network, network, x, None, record=record))
    assert same(results[0][0], results[1][0]) and same(results[0][1], results[1][1])


def test_training_starts_from_a_state_of_a_rollout_in_inference_mode():
    network = build(stateful=True)
    x, state, keep = carried(network)
    with torch.inference_mode():
        _, after = network(x, state, keep)
    assert all(s.is_inference() for s in after)
    found = gradients(network, network, x, after, keep)
    expected = gradients(network, network, x, tuple(s.clone() for s in after), keep)
    assert same(found[0], expected[0]) and same(found[1], expected[1])
    with torch.inference_mode():
        observed = x.clone()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        network(observed, after, keep)


def test_strided_inputs_are_those_in_one_piece():
    network = build(stateful=True)
    x, state, keep = carried(network)
    turned = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    given = turned, tuple(s.mT.contiguous().mT for s in state), keep.mT.contiguous().mT
    assert not turned.is_contiguous()
    found, expected = gradients(network, network, *given), gradients(network, network, x, state, keep)
    assert same(found[0], expected[0]) and same(found[1], expected[1])


@pytest.mark.parametrize("record", [None, ForwardRecord], ids=["stack", "layers"])
def test_no_environments_give_no_output_and_no_gradient(record):
    network = build(stateful=True, neuron=LEARNED)
    given = carried(network, batch=0)
    outputs, grads = gradients(network, network, *given, record=record)
    assert outputs[0].shape == (TIME, 0, OUTPUTS)
    assert all(not g.any() for g in grads)
    with torch.no_grad():
        assert build()(observations(batch=0), None)[0].shape == (1, 0, OUTPUTS)


def test_what_does_not_fit_is_refused_before_a_kernel_reads_it():
    network = build(stateful=True)
    x, state, keep = carried(network)
    for gradients_on in (True, False):
        with (
            torch.set_grad_enabled(gradients_on),
            pytest.raises(ValueError, match="channels: 10 given; expected: 11"),
        ):
            network(x[..., 1:], None)
    with pytest.raises(ValueError, match="states: 2 given; expected: 3"):
        network(x, state[:2], keep)
    for record in (None, ForwardRecord()):
        with pytest.raises(ValueError, match="keep: shape .*; expected"):
            network(x, state, keep[:, :3], record)
        with pytest.raises(ValueError, match="states: shape .*; expected"):
            network(x, network.zero_state(3, x), keep, record)
    with pytest.raises(ValueError, match="do not match"):
        dispatch.linear("cpu", x, torch.ones(4, INPUTS + 1), None)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("gradients_on", [True, False])
def test_a_signal_of_other_steps_is_refused(backend, gradients_on):
    network = build(backend=backend, steps=4)
    network.encoder.forward = lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1)
    for record in (None, ForwardRecord(only_signals=True)):
        with torch.set_grad_enabled(gradients_on):
            with pytest.raises(ValueError, match="inner steps: 3 given; expected: 1 or 4"):
                network(observations(), None, record=record)
            with pytest.raises(ValueError, match="control steps: 0 given; expected: at least 1"):
                network(observations(time=0), None, record=record)


@pytest.mark.parametrize("gradients_on", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("weight", torch.ones(INPUTS, 5), "weight: shape"),
        ("bias", torch.ones(5), "bias: shape"),
        ("bias", torch.ones(LAYERS[0], dtype=torch.float64), "torch.float64"),
    ],
)
def test_a_weight_or_bias_that_does_not_fit_its_layer_is_refused(gradients_on, name, value, error):
    network = build()
    setattr(network.layers[0].connection, name, torch.nn.Parameter(value))
    with torch.set_grad_enabled(gradients_on), pytest.raises((ValueError, TypeError), match=error):
        network(observations(), None)


@pytest.mark.parametrize("gradients_on", [True, False])
@pytest.mark.parametrize(
    ("value", "error"),
    [(torch.ones(OUTPUTS - 1), "bias: shape"), (torch.ones(OUTPUTS, dtype=torch.float64), "torch.float64")],
)
def test_a_bias_that_does_not_fit_the_readout_is_refused(gradients_on, value, error):
    network = build()
    assert network.decoder.which == "last"
    network.decoder.readout.bias = torch.nn.Parameter(value)
    with torch.set_grad_enabled(gradients_on), pytest.raises((ValueError, TypeError), match=error):
        network(observations(), None)


def test_a_bias_that_is_a_column_of_a_matrix_is_read_by_its_stride():
    networks = [build(backend=backend) for backend in ("cpu", "torch")]
    columns = [torch.randn(count, 3, generator=generator(4)) for count in (LAYERS[0], OUTPUTS)]
    for network in networks:
        network.layers[0].connection.bias.data = columns[0][:, 1]
        network.decoder.readout.bias.data = columns[1][:, 1]
    found, expected = (gradients(network, network, observations(), None) for network in networks)
    assert near(found[0], expected[0]) and near(found[1], expected[1])
    with torch.no_grad():
        for _ in range(2):
            assert near(networks[0](observations(), None)[0], networks[1](observations(), None)[0])
            columns[0] += 1.0  # a rollout sees the change
    x, weight = (observations() > 0).float(), torch.ones(LAYERS[0], INPUTS)
    linear = [dispatch.linear(backend, x, weight, columns[0][:, 1], True) for backend in ("cpu", "torch")]
    assert near(*linear)


def test_a_network_that_ran_is_copied_saved_and_loaded():
    network, x = build(neuron=LEARNED), observations()
    expected = gradients(network, network, x, None)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    others = [copy.deepcopy(network), torch.load(file, weights_only=False), build(seed=9, neuron=LEARNED)]
    others[2].load_state_dict(network.state_dict())
    for other in others:
        found = gradients(other, other, x, None)
        assert same(found[0], expected[0]) and same(found[1], expected[1])
    with torch.no_grad():
        network.layers[0].connection.weight.zero_()
    assert all(torch.equal(other(x, None)[0], expected[0][0]) for other in others)
