"""Faults put into the text of the kernels on purpose are caught by comparing them with the torch reference: a test of the tests."""

import importlib.util
import inspect
import types

import pytest
import torch

from spiky_rl.kernels import compiler, operators, programs, trace
from spiky_rl.kernels.backends import cpu as cpu_backend
from spiky_rl.kernels.launch import KernelLaunch
from spiky_rl.neurons.base import Neuron, parameter
from tests.kernels import host_device, test_recurrent
from tests.kernels.cases import (
    CPU,
    CUPY,
    compare,
    configured,
    distinct,
    inputs,
    near,
    network,
    run,
    vocabulary,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CPU.get_unavailable_reason() is not None,
        reason=f"no compiled kernels: {CPU.get_unavailable_reason()}",
    ),
]

BATCH, WIDTH = 9, 61
"""549 lanes: whole chunks of lanes, whole vectors, and a tail; more neurons than samples."""
TOLERANCE = 1e-5
"""Of gradients and states, relative to the largest."""


class Every(Neuron):
    """Every operation of the vocabulary once, of one unit each; not a model of anything."""

    states = ("v", "w")

    class Options(Neuron.Options):
        gain: float = parameter(0.7, "of the current", unit="1")
        floor: float = parameter(0.3, "threshold", unit="1")

    def step(self, ops, current, s, p):
        v, w, floor = s.v, s.w, p.floor
        drive = ops.tanh(p.gain * current) + ops.exp(-ops.abs(v)) - 1.0
        # where v and w are equal, each takes half of the gradient
        rise = ops.max(v, w) - 0.5 * ops.min(v, w) + ops.max(w, 0.05) * ops.min(current, 0.4)
        v = 0.5 * v + drive * ops.sqrt(1.0 + w * w) / (2.0 + ops.tan(0.1 * w)) + 0.1 * ops.detach(v) * v
        spike = ops.spike(v - floor)
        rest = ops.where(w > 0.0, v - spike * floor, 0.5 * v)
        return spike, s.replace(v=rest, w=0.5 * w + 0.2 * rise + 0.1 / (1.5 + ops.heaviside(v) + w * w))


def check_neuron(name, time=3, steps=2, **options):
    """A neuron's kernels are the reference."""
    neuron = (
        configured(name, True, **options) if name != "every" else Every.from_options(learn=list(Every.params))
    )
    for constant in (False, True):
        parameters, tensors = distinct(neuron, WIDTH), inputs(neuron, BATCH, WIDTH, time, steps, constant)
        if name == "every":  # a third of its two states are equal
            tensors[1][1][:, ::3] = tensors[1][0][:, ::3]
        expected = run("torch", neuron, parameters, tensors, steps)
        assert expected[0].any(), "a silent neuron proves nothing"
        compare(run("cpu", neuron, parameters, tensors, steps), expected, TOLERANCE)


def lif():
    check_neuron("lif", tau=2.0)


def alif():
    check_neuron("alif", tau=2.0, detach_reset=False)


def every():
    check_neuron("every")


def loop():
    """A recurrent loop with delays, filtered synapses, episodes that end and errors that are cut."""
    for cut in (False, True):
        (output, last, gradients), (wanted, states, expected) = test_recurrent.both(
            "alif", "both", 33, cut=cut
        )
        assert torch.equal(output, wanted) and test_recurrent.equal(last, states)
        assert all(near(a, b, TOLERANCE) for a, b in zip(gradients, expected, strict=True))


def one_step_of_hodgkin_huxley():
    check_neuron("hodgkin_huxley", time=1, steps=1, substeps=2)


def device():
    """The CUDA text, on the host, is the CPU kernels."""
    neuron = configured("alif", True)
    call = programs.prepare_call(neuron, vocabulary(), distinct(neuron, WIDTH)(), WIDTH)
    current, state, keep = inputs(neuron, BATCH, WIDTH)
    job = KernelLaunch(call.key, current, torch.stack(state), call.params.detach(), keep, call.uniforms, 2)
    forward = [b.forward(job, True, True) for b in (CUPY, CPU)]
    grads = torch.ones_like(forward[1][0]), torch.stack(state)
    backward = [b.backward(job, *grads) for b in (CUPY, CPU)]
    for found, expected in (forward, backward):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def linear():
    """Event-driven products are the dense ones."""
    for rows, columns, outputs in ((65, 130, 17), (40, 20, 70)):
        for binary in (True, False):
            g = torch.Generator().manual_seed(1)
            x = (torch.rand(rows, columns, generator=g) < 0.3).float()
            x = x if binary else x * torch.randn(rows, columns, generator=g)
            weight, bias = torch.randn(outputs, columns, generator=g), torch.randn(outputs, generator=g)
            found, expected = [], []
            for results, kind in ((found, torch.float32), (expected, torch.float64)):
                given = [t.to(kind).requires_grad_() for t in (x, weight, bias)]
                product = torch.nn.functional.linear if kind == torch.float64 else operators.linear
                y = product(*given) if kind == torch.float64 else product(*given, binary, False)
                grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(kind)
                results += [y.detach(), *torch.autograd.grad(y, given, grad)]
            assert all(near(a, b, TOLERANCE) for a, b in zip(found, expected, strict=True))


def stack():
    """A network in one call is the torch reference's, through more rows than pass at once."""
    results, learned = [], {"name": "lif", "tau": 2.0, "input_gain": "unit", "learn": ["threshold"]}
    for backend in ("cpu", "torch"):
        built, g = network(backend, neuron=learned, stateful=True), torch.Generator().manual_seed(1)
        x = torch.randn(3, 100, 19, generator=g).requires_grad_()
        keep = (torch.rand(3, 100, generator=g) > 0.4).float()
        state = (0.2 * torch.rand(s.shape, generator=g) for s in built.zero_state(100, x))
        state = tuple(s.requires_grad_() for s in state)
        y, last = built(x, state, keep)
        loss = (y * torch.randn(y.shape, generator=g)).sum() + sum(s.pow(2).sum() for s in last)
        results.append([y.detach(), *torch.autograd.grad(loss, [x, *state, *built.parameters()])])
    assert all(near(a, b, TOLERANCE) for a, b in zip(*results, strict=True))


def rollout():
    """So is its last inner step, alone and without a gradient."""
    x = torch.randn(1, 100, 19, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = (network(backend)(x, None)[0] for backend in ("cpu", "torch"))
    assert near(found, expected, TOLERANCE)


LOOPS = {
    "parameters of another neuron": (alif, "long n = lane % N;", "long n = lane / N;"),
    "parameters by the batch": (alif, "lane(v), j.N, left(v));\n    }", "lane(v), j.B, left(v));\n    }"),
    "keep of a vector's first lane": (lif, "x[(lane + (j < left ? j : 0)) / N]", "x[lane / N]"),
    "keep after the step": (lif, "c.begin(t);", "if (t) c.begin(t - 1);"),
    "keep forgotten in the gradient": (lif, "g[q][v] = g[q][v] * factor;", ";"),
    "the last lane of a tail": (
        lif,
        "x, left >= WIDTH ? sizeof value : left *",
        "x, left >= WIDTH ? sizeof value : (left - 1) *",
    ),
    "a constant current's gradient of one step": (
        lif,
        "F gi = j.constant ? sum[v] : LANE(0);",
        "F gi = LANE(0);",
    ),
    "a constant current's gradient of all steps": (lif, ", sum[v] = LANE(0);", ";"),
    "a constant current of the first step": (lif, "(j.constant ? t :", "(j.constant ? 0 :"),
    "the last state's gradient": (lif, "j.grad_last ? load", "false ? load"),
    "the output's gradient of another step": (
        lif,
        "load(j.grad_output + c.at(t, k)",
        "load(j.grad_output + c.at(t, 0)",
    ),
    "another state kept for the adjoint": (
        alif,
        "store(at(m, q), s[q], WIDTH)",
        "store(at(m, q), s[0], WIDTH)",
    ),
    "another state given back": (
        alif,
        "c.lane(v), c.s[q][v], c.left(v));",
        "c.lane(v), c.s[0][v], c.left(v));",
    ),
    "another state's gradient": (alif, "c.lane(v), g[q][v], c.left(v));", "c.lane(v), g[0][v], c.left(v));"),
    "a parameter's gradient of the first step": (lif, "gp[q][v] = gradient[q];", "gp[q][v] = gp[q][v];"),
    "a parameter's gradient of one step": (lif, "gp[0] +=", "gp[0] ="),
    "a sub-step less": (one_step_of_hodgkin_huxley, "m < SUBSTEPS; m++) keep", "m < SUBSTEPS - 1; m++) keep"),
    "the state after a sub-step": (
        one_step_of_hodgkin_huxley,
        "    STATE_BEFORE(m);",
        "    STATE_BEFORE(m + 1);",
    ),
}
"""What goes wrong: what sees it, the text, and what it becomes."""

DEVICE = {
    "parameters of another neuron": ("return x[lane % N];", "return x[lane / N];"),
    "keep of another sample": ("return x[lane / N];", "return x[lane % N % 9];"),
    "two arguments changed over": ("long T, long K", "long K, long T"),
    "a shorter argument": ("long T, long K", "int T, long K"),
    "a number too many": ("int constant UNIFORM", "int constant, float more UNIFORM"),
}

CORE = {
    "an event dropped": (
        linear,
        "if (bits) bits[first / 64] = word;",
        "if (bits) bits[first / 64] = word; word &= word - 1;",
    ),
    "bits off by one": (
        linear,
        "tile[i] = bits[i * WORDS(inputs) + w];",
        "tile[i] = bits[i * WORDS(inputs) + w] << 1;",
    ),
    "a row's end left out": (
        linear,
        "load_some(tail, left) + total[NV - 1], left);",
        "load_some(tail, left) + total[NV - 1], left - 1);",
    ),
    "the last row of the bias": (linear, "((Word)1 << n) - 1", "((Word)1 << (n - 1)) - 1"),
    "the first row for all that are left": (
        linear,
        "dense_tile<n, NV, PADDED>(x + r * inputs,",
        "dense_tile<n, NV, PADDED>(x,",
    ),
    "the state of the first rows": (stack, "layer.state + b * layer.N", "layer.state"),
    "keep of the first rows": (stack, "s.keep ? s.keep + b :", "s.keep ? s.keep :"),
    "parameters' gradients of the last rows": (
        stack,
        "layer.grad_params[q * N + i % N] +=",
        "layer.grad_params[q * N + i % N] =",
    ),
    "the output of the step before the last": (rollout, "(t * s.K + s.K - 1) *", "(t * s.K + s.K - 2) *"),
    "the weights' gradient of the first rows": (
        stack,
        "outer_product(input + (t * s.B + b) * C",
        "outer_product(input + t * s.B * C",
    ),
}

LOOP = {
    "a past that outlives its episode": (
        "step - d >= l.m.since[t * l.R + r]",
        "step - d >= -l.within.delays",
    ),
    "the latest spikes at every delay": ("l.m.events + ((D + step - d)", "l.m.events + ((D + step - 1)"),
    "the weights of the first delay": ("bits[w], (d - 1) * N + w * 64)", "bits[w], w * 64)"),
    "a current that does not decay": ("l.within.decay * l.m.synapse[i] + l", "l.m.synapse[i] + l"),
    "a decay left out of the adjoint": ("l.within.decay * arrived[i] *", "arrived[i] *"),
    "an episode's end left out of the adjoint": ("(job.keep ? job.keep[i / N] : 1.0f)", "1.0f"),
    "errors to the step itself": ("grad_output + (step - d) * l.R * N", "grad_output + step * l.R * N"),
    "errors before the first step": ("l.m.early + (D + step - d) * l.R * N", "l.m.early"),
    "a cut that cuts nothing": ("(l.within.cut && step >= d)", "false"),
    "a weight's gradient from its first delay": ("grad_weight + (d - 1) * N * N", "grad_weight"),
    "the state of the step before": (
        "l.m.path + step * l.states",
        "l.m.path + (step ? step - 1 : 0) * l.states",
    ),
}

TRACE = {
    "the sign of a difference": ("add(y, -g)\n", "add(y, g)\n"),
    "one factor of a product": ("add(y, g * x)", "pass"),
    "the sign of a quotient": ("add(y, -(share * node))", "add(y, share * node)"),
    "the branches of where": ("add(x, where(condition, g, 0.0))", "add(x, where(condition, 0.0, g))"),
    "detach": ('case "exp", x:', 'case "detach", x:\n                add(x, g)\n            case "exp", x:'),
    "exp": ("add(x, g * node)", "add(x, g)"),
    "tanh": ("(1.0 - node * node)", "(1.0 - node)"),
    "tan": ("(1.0 + node * node)", "(1.0 - node * node)"),
    "sqrt": ("g / (2.0 * node)", "g / node"),
    "abs": ("where(x < 0.0, -g, 0.0)", "0.0"),
    "a maximum of equals": ("0.5 * g", "g"),
    "the limit of a maximum": ('x >= y if op == "max" else x <= y', "x >= y"),
    "a spike's gradient": ("add(x, g * ", "add(x, 1.0 * "),
}


@pytest.fixture(scope="module", autouse=True)
def quickly(tmp_path_factory):
    """Compile without optimising, into a cache that is thrown away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKY_RL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(compiler, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in compiler.FLAGS))
        forget(compiler.get_cache_folder, compiler.compile_library)
        yield
    forget(compiler.get_cache_folder, compiler.compile_library)


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Kernels are looked for anew before and after, and CuPy's are launched on the host."""
    monkeypatch.setattr(CUPY, "_launch", host_device.launch)
    monkeypatch.setattr(programs, "_KEYS", {})
    forget(cpu_backend.load_core_kernels, cpu_backend.load_kernels, host_device.compiled)
    yield
    forget(cpu_backend.load_core_kernels, cpu_backend.load_kernels, host_device.compiled)


def forget(*functions):
    for function in functions:
        function.cache_clear()


def caught(monkeypatch, check, right, wrong):
    """Whether the check fails once ``right`` is ``wrong`` in what is compiled. It really is in there."""
    seen, library = [], compiler.compile_library

    def faulty(text, of, flags=()):
        seen.append(right in text)
        return library(text.replace(right, wrong), of, flags)

    monkeypatch.setattr(compiler, "compile_library", faulty)
    with pytest.raises(AssertionError) as failure:
        check()
    assert any(seen), f"{right!r} stands in no text that was compiled"
    return failure.value


@pytest.mark.parametrize(
    "check", [lif, alif, every, loop, one_step_of_hodgkin_huxley, device, linear, stack, rollout]
)
def test_without_a_fault_all_is_right(check):
    check()


@pytest.mark.parametrize("fault", LOOPS)
def test_a_fault_in_the_loops_is_caught(fault, monkeypatch):
    caught(monkeypatch, *LOOPS[fault])


@pytest.mark.parametrize("fault", DEVICE)
def test_a_fault_in_the_cuda_text_is_caught(fault, monkeypatch):
    caught(monkeypatch, device, *DEVICE[fault])


@pytest.mark.parametrize("fault", CORE)
def test_a_fault_in_the_linear_layers_is_caught(fault, monkeypatch):
    caught(monkeypatch, *CORE[fault])


@pytest.mark.parametrize("fault", LOOP)
def test_a_fault_in_the_recurrent_loop_is_caught(fault, monkeypatch):
    caught(monkeypatch, loop, *LOOP[fault])


@pytest.mark.parametrize("fault", TRACE)
def test_a_fault_in_the_adjoint_is_caught(fault, monkeypatch, tmp_path):
    right, wrong = TRACE[fault]
    text = inspect.getsource(trace)
    functions = text[text.index("def differentiate(") :]
    assert right in functions
    path = tmp_path / "faulty.py"
    path.write_text(text.replace(functions, functions.replace(right, wrong)), encoding="utf-8")
    specification = importlib.util.spec_from_file_location("faulty", path)
    faulty = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(faulty)
    for name in ("differentiate", "_split_gradient"):  # its functions, with the real module's classes
        code = getattr(faulty, name).__code__
        monkeypatch.setattr(trace, name, types.FunctionType(code, vars(trace)))
    with pytest.raises(AssertionError, match="gradient"):
        every()
