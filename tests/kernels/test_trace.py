"""The tracer and the emitter: what a step writes is what its kernel computes, and what it may not write is refused by name."""

import ctypes
import math
import struct
from functools import cache

import numpy
import pytest
import torch

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch, emit
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.trace import TraceError
from spiky_rl.neurons.base import Neuron, parameter
from spiky_rl.surrogates.base import Surrogate
from tests.kernels.cases import CPU

K = 2.7
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 3.0, 7.5, -88.5, 95.0, 1e-40, 1e30, -1e30, 3e38)
SPECIAL += (math.inf, -math.inf, math.nan)
FINITE = (1.0, -1.0, 0.1, -0.3, 2.0, K, 7.5, -60.0, 50.0, -1e-6)
RANDOM = 3000

compiled = pytest.mark.skipif(
    CPU.get_unavailable_reason() is not None, reason=f"no compiled kernels: {CPU.get_unavailable_reason()}"
)


class Probe(Neuron):
    """A step for every question."""

    states = ("v",)

    class Options(Neuron.Options):
        k: float = parameter(K, "a number", unit="1")


def probe(step, states=("v",)):
    """A neuron with this step."""
    cls = type("Probe", (Probe,), {"step": staticmethod(step), "states": states, "__module__": __name__})
    return cls.from_options(k=K)


def of_value(f):
    """A neuron whose output is f(ops, current, v, k)."""
    return probe(lambda ops, current, s, p: (f(ops, current, s.v, p.k), s))


def surrogate():
    return registry.configure("surrogates", "arctangent", "surrogate").build()


def traced(neuron, varying=False):
    return emit.build_program(neuron, surrogate(), (varying,))


def forward(program):
    """The text of the step without its adjoint."""
    return program.text.partition("step_adjoint")[0]


def run(backend, neuron, x, states, k=K):
    """Output and states of one step of every value of x [N], states [N], and the leaves that gradients go to."""
    leaves = [t.clone().requires_grad_() for t in (x, states[0])]
    others = [t[None] for t in states[1:]]
    output, last = dispatch.unroll(
        *(backend, neuron, TorchOps(surrogate()), leaves[0][None, None, None], 1),
        *((leaves[1][None], *others), (k,)),
    )
    return output.flatten(), [s.flatten() for s in last], leaves


# What is traced


def test_equal_expressions_are_one_node():
    program = traced(of_value(lambda ops, i, v, k: ops.tanh(i * v) + ops.tanh(i * v) * (i * v)))
    assert forward(program).count("lane_tanh") == 1
    assert forward(program).count(" * ") == 2, "i * v once, and the product with tanh"


def test_adjoint_shares_what_it_needs_of_the_forward():
    adjoint = traced(of_value(lambda ops, i, v, k: ops.exp(i * v))).text.partition("step_adjoint")[2]
    assert adjoint.count("lane_exp") == 1


def test_numbers_are_folded_as_they_are_met():
    text = forward(traced(of_value(lambda ops, i, v, k: ops.max(ops.exp(0.0), 0.5) * v + ops.abs(-3.0) * i)))
    assert "lane_" not in text
    assert "LANE(3.0f)" in text
    assert "LANE(1.0f)" not in text, "one times a value is the value"


def test_conditions_on_options_choose_while_the_step_is_traced():
    text = forward(traced(of_value(lambda ops, i, v, k: ops.where(2 > 1, v, ops.exp(i)) + True * i)))
    assert "lane_" not in text


def test_what_parameters_that_are_numbers_make_is_one_float_in_double_precision():
    program = traced(of_value(lambda ops, i, v, k: ops.exp(-1.0 / k) ** 3 * v + ops.exp(-1.0 / k) ** 3 * i))
    assert "lane_exp" not in program.text
    assert len(program.slots) == 1
    assert program.uniforms({"parameter k": K, "slope": 1.0}) == [math.exp(-1.0 / K) ** 3]


def test_parameters_that_differ_between_neurons_are_computed_per_lane():
    program = traced(of_value(lambda ops, i, v, k: ops.exp(-1.0 / k) * v), varying=True)
    assert "lane_exp" in forward(program)
    assert program.slots == ()


def test_parameters_that_do_not_go_together_are_named_with_the_neuron():
    program = traced(of_value(lambda ops, i, v, k: v * ops.sqrt(1.0 - k)))
    with pytest.raises(
        TraceError, match=r"neuron 'Probe': its step fails with math domain error .*'parameter k': 2\.7"
    ):
        program.uniforms({"parameter k": K, "slope": 1.0})


@pytest.mark.parametrize("exponent", range(-45, 39, 3))
def test_literals_round_trip_through_a_float(exponent):
    generator = torch.Generator().manual_seed(exponent + 100)
    for mantissa in (*torch.rand(20, generator=generator, dtype=torch.float64).tolist(), 1.0):
        for x in (mantissa * 10.0**exponent, -mantissa * 10.0**exponent, int(mantissa * 1000)):
            text = emit.format_literal(x)
            assert text[-1] == "f" and ("." in text or "e" in text), "C takes it for a float"
            assert struct.pack("f", float(text[:-1])) == struct.pack("f", x)


@pytest.mark.parametrize("number", [1e39, -3.5e38, math.inf, math.nan, 10**50])
def test_numbers_that_no_float_holds_are_refused(number):
    message = f"neuron 'Probe': the number {number!r} in a step does not fit a float".replace("+", r"\+")
    with pytest.raises(TraceError, match=message):
        traced(of_value(lambda ops, i, v, k: v + number))


# What is computed

EXACT = {
    "x + y": lambda ops, x, y, k: x + y,
    "number + x": lambda ops, x, y, k: 0.1 + x,
    "x - y": lambda ops, x, y, k: x - y,
    "x - number": lambda ops, x, y, k: x - 0.1,
    "number - x": lambda ops, x, y, k: 0.1 - x,
    "parameter - x": lambda ops, x, y, k: k - x,
    "x * y": lambda ops, x, y, k: x * y,
    "number * x": lambda ops, x, y, k: 0.7 * x,
    "-0.0 * x": lambda ops, x, y, k: -0.0 * x,
    "x / y": lambda ops, x, y, k: x / y,
    "x / number": lambda ops, x, y, k: x / 3.0,
    "number / x": lambda ops, x, y, k: 3.0 / x,
    "parameter / x": lambda ops, x, y, k: k / x,
    "-x": lambda ops, x, y, k: -x,
    "square": lambda ops, x, y, k: x**2,
    "cube": lambda ops, x, y, k: x**3,
    "<": lambda ops, x, y, k: ops.where(x < y, x, 2.0 * y),
    "<=": lambda ops, x, y, k: ops.where(x <= y, x, 2.0 * y),
    ">": lambda ops, x, y, k: ops.where(x > y, x, 2.0 * y),
    ">=": lambda ops, x, y, k: ops.where(x >= y, x, 2.0 * y),
    "number < x": lambda ops, x, y, k: ops.where(0.1 < x, x, y),
    "where of numbers": lambda ops, x, y, k: ops.where(x > y, 0.1, 3.0) * y,
    "where of a value alone": lambda ops, x, y, k: ops.where(x > 0.0, x * y, 0.0),
    "parameter > number": lambda ops, x, y, k: ops.where(k > 2.0, x, y),
    "abs": lambda ops, x, y, k: ops.abs(x) * y,
    "max": lambda ops, x, y, k: ops.max(x, y),
    "max of a number": lambda ops, x, y, k: ops.max(0.1, x),
    "max of a parameter": lambda ops, x, y, k: ops.max(x, k),
    "min": lambda ops, x, y, k: ops.min(x, y),
    "min of a number": lambda ops, x, y, k: ops.min(x, 0.1),
    "min of a parameter": lambda ops, x, y, k: ops.min(k, x),
    "heaviside": lambda ops, x, y, k: ops.heaviside(x - 1.0) * y,
    "spike": lambda ops, x, y, k: ops.spike(x - 1.0) * y,
    "detach": lambda ops, x, y, k: ops.detach(x) * x,
}
"""Arithmetic alone: every bit is torch's."""
ROUNDED = {
    "exp": lambda ops, x, y, k: ops.exp(x),
    "tanh": lambda ops, x, y, k: ops.tanh(x),
    "tan": lambda ops, x, y, k: ops.tan(x),
    "sqrt": lambda ops, x, y, k: ops.sqrt(ops.abs(x)),
}
"""Within two units in the last place of what is right."""
OPS = {**EXACT, **ROUNDED}
NAMES = [f"of_{i}" for i in range(len(OPS))]
Everything = probe(
    lambda ops, x, s, p: (
        x + 0.0 * s.y,
        s.replace(**{name: f(ops, x, s.y, p.k) for name, f in zip(NAMES, OPS.values(), strict=True)}),
    ),
    ("y", *NAMES),
)
"""One neuron, so that one compilation tests every operation: each is a state."""


@cache
def everything(backend, values, random, varying):
    """Every pair of values, and random ones: x, and by operation the value and the gradients of x and y."""
    g = torch.Generator().manual_seed(0)
    pairs = torch.tensor(values)
    x, y = (t.flatten() for t in torch.meshgrid(pairs, pairs, indexing="ij"))
    x = torch.cat([x, 8.0 * torch.randn(random, generator=g)])
    y = torch.cat([y, 8.0 * torch.randn(random, generator=g)])
    k = torch.full_like(x, K) if varying else K
    states = [y, *(torch.zeros_like(x) for _ in OPS)]
    _, last, leaves = run(backend, Everything, x, states, k)
    found = {}
    for name, value in zip(OPS, last[1:], strict=True):
        grads = torch.autograd.grad(
            value.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found[name] = value.detach(), *grads
    return x, found


def units_apart(a, b):
    """Floats between two floats; 0 where both are no number."""
    ranks = [t.view(torch.int32).long() for t in (a, b)]
    ranks = [torch.where(r < 0, -(r & 0x7FFFFFFF), r) for r in ranks]
    return torch.where(a.isnan() & b.isnan(), 0, (ranks[0] - ranks[1]).abs())


@compiled
@pytest.mark.parametrize("varying", [False, True], ids=["numbers", "per-neuron"])
@pytest.mark.parametrize("name", EXACT)
def test_arithmetic_on_the_cpu_has_torchs_bits_for_every_kind_of_number(name, varying):
    found, wanted = (everything(b, SPECIAL, RANDOM, varying)[1][name][0] for b in ("cpu", "torch"))
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.nan_to_num(), wanted.nan_to_num())
    assert any(key.startswith("Probe") for key in CPU.launches), "the kernel ran"


@compiled
@pytest.mark.parametrize("name", ROUNDED)
def test_functions_on_the_cpu_are_within_two_units_of_the_last_place(name):
    x, found = everything("cpu", SPECIAL, RANDOM, False)
    value = found[name][0]
    right = ROUNDED[name](torch, x.double(), None, None).float()
    if name == "tan":  # far from 0 it loses digits
        value, right = (torch.where((x.abs() < 10) | ~x.isfinite(), t, 0.0) for t in (value, right))
    assert units_apart(value, right).max() <= 2
    assert right.isnan().any() and (right != 0).sum() > RANDOM / 2, "the values are of every kind"


@compiled
def test_exponentials_are_right_down_to_the_smallest_float():
    x = torch.linspace(-105.0, -85.0, RANDOM)
    states = run("cpu", Everything, x, [torch.zeros_like(x)] * len(Everything.states))[1]
    value = states[1 + list(OPS).index("exp")].detach()
    assert units_apart(value, torch.exp(x.double()).float()).max() <= 2
    assert 0 < value[value > 0].min() < 1e-44


@compiled
@pytest.mark.parametrize("varying", [False, True], ids=["numbers", "per-neuron"])
@pytest.mark.parametrize("name", OPS)
def test_gradients_on_the_cpu_are_autograds_ties_included(name, varying):
    (x, found), (_, wanted) = (everything(b, FINITE, RANDOM, varying) for b in ("cpu", "torch"))
    near = x.abs() < 10 if name == "tan" else torch.ones_like(x, dtype=torch.bool)
    for got, expected in zip(found[name][1:], wanted[name][1:], strict=True):
        absolute = 2e-7 if name == "tanh" else 0.0  # 1 - tanh^2 cancels
        torch.testing.assert_close(got[near], expected[near], rtol=2e-6, atol=absolute, equal_nan=True)
    assert (
        name in ("heaviside", "where of numbers", "-0.0 * x") or found[name][1].nan_to_num().abs().sum() > 0
    )


@compiled
def test_ties_share_the_gradient_and_the_kink_of_abs_has_none():
    x = torch.zeros(3)
    # one neuron, whose other states are the values: one compilation
    neuron = probe(
        lambda ops, i, s, p: (
            i,
            s.replace(max=ops.max(i, s.v), min=ops.min(i, s.v), limit=ops.max(i, 0.0), abs=ops.abs(i)),
        ),
        ("v", "max", "min", "limit", "abs"),
    )
    for backend in ("torch", "cpu"):
        _, (_, *values), leaves = run(backend, neuron, x, [x] * 5)
        for value, expected in zip(values, [(0.5, 0.5), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)], strict=True):
            grads = torch.autograd.grad(
                value.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            assert [g.unique().tolist() for g in grads] == [[e] for e in expected], backend


@compiled
def test_a_number_reaches_the_kernel_rounded_once():
    x = torch.linspace(-3.0, 3.0, RANDOM)
    f = of_value(lambda ops, i, v, k: (ops.exp(-0.1 / k) * (1.0 - k) / 3.0) * i)
    factor = ctypes.c_float(math.exp(-0.1 / K) * (1.0 - K) / 3.0).value
    assert torch.equal(run("cpu", f, x, [x])[0], x * factor)


@compiled
@pytest.mark.parametrize("name", ["slope", "i", "go", "current", "u", "g", "s", "p"])
def test_a_parameter_may_be_called_as_an_input_of_the_kernel_is(name):
    options = type("Options", (Neuron.Options,), {
        "__annotations__": {name: float}, name: parameter(1.5, "gain", unit="1"), "__module__": __name__,
    })  # fmt: skip

    def step(ops, current, s, p):
        v = 0.5 * s.v + getattr(p, name) * current
        spike = ops.spike(v - 1.0)
        return spike, s.replace(v=v * (1.0 - spike))

    body = {"step": staticmethod(step), "states": ("v",), "Options": options, "__module__": __name__}
    neuron = type("Probe", (Neuron,), body).from_options()
    x = torch.linspace(-3.0, 3.0, RANDOM)
    results = []
    for backend in ("cpu", "torch"):
        output, last, leaves = run(backend, neuron, x, [x], 1.5)
        results.append([output, *last, *torch.autograd.grad(output.sum() + last[0].sum(), leaves)])
    (output, *found), (reference, *expected) = results
    assert torch.equal(output, reference)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


# What is refused

OUTSIDE = {
    "function of ops": (lambda ops, i, v, k: ops.sigmod(v), r"'ops\.sigmod' .*vocabulary: exp, tanh"),
    "nearest function": (lambda ops, i, v, k: ops.tahn(v), r"'ops\.tahn' .*did you mean 'tanh'"),
    "method": (lambda ops, i, v, k: v.clamp(0.0, 1.0), r"'\.clamp' of a value .*vocabulary: exp,"),
    "nearest method": (lambda ops, i, v, k: v.sqrt(), r"'\.sqrt' of a value .*did you mean 'sqrt'"),
    "torch's function": (lambda ops, i, v, k: torch.exp(v), r"'torch\.exp'.* did you mean 'exp'"),
    "torch's where": (lambda ops, i, v, k: torch.where(v > 0, v, i), r"'torch\.where'.*mean 'where'"),
    "torch's functional": (lambda ops, i, v, k: torch.nn.functional.relu(v), r"'torch\.relu'"),
    "numpy's function": (lambda ops, i, v, k: numpy.exp(v), r"'\.exp' .*did you mean 'exp'"),
    "math's function": (lambda ops, i, v, k: math.exp(v), r"such as math\.exp.*use ops\.exp"),
    "math of a parameter": (lambda ops, i, v, k: v * math.exp(k), r"math\.exp.*use ops\.exp"),
    "float": (lambda ops, i, v, k: float(v), r"'float\(value\)'"),
    "root as a power": (lambda ops, i, v, k: v**0.5, r"'\*\* 0\.5' .*; squares and cubes are"),
    "power of a parameter": (lambda ops, i, v, k: k**0.5 * v, r"'\*\* 0\.5'"),
    "value as exponent": (lambda ops, i, v, k: v**k, r"'\*\* <input 0>' is not in the op vocabulary"),
    "number to a power": (lambda ops, i, v, k: 2.0**v, r"'number \*\* value'.*use ops\.exp"),
    "branch": (lambda ops, i, v, k: v if v > 0 else i, r"a branch on a state.*use ops\.where"),
    "branch on a parameter": (lambda ops, i, v, k: v if k > 0 else i, r"a branch.*use ops\.where"),
    "and": (lambda ops, i, v, k: ops.where(v > 0 and i > 0, v, i), r"a branch.*use ops\.where"),
    "chained comparison": (lambda ops, i, v, k: ops.where(0 < v < 1, v, i), r"a branch.*use ops\.where"),
    "Python's max": (lambda ops, i, v, k: max(v, 0.0), r"a branch.*use ops\.where"),
    "&": (lambda ops, i, v, k: ops.where((v > 0) & (i > 0), v, i), r"'&' .*ops\.where inside ops\.where"),
    "equality": (lambda ops, i, v, k: ops.where(v == i, v, i), r"'==' .*; <, <=, > and >= are"),
    "equality with a number": (lambda ops, i, v, k: ops.where(v == 0.0, v, i), r"'=='"),
    "inequality": (lambda ops, i, v, k: ops.where(v != i, v, i), r"'!='"),
    "remainder": (lambda ops, i, v, k: v % 2.0, r"'%' is not in the op vocabulary"),
    "Python's abs": (lambda ops, i, v, k: abs(v), r"'abs\(value\)'.*use ops\.abs"),
    "tensor on the right": (lambda ops, i, v, k: v * torch.ones(2), r"its arguments, got tensor\("),
    "tensor on the left": (lambda ops, i, v, k: torch.ones(2) * v, r"'torch\.mul', or a tensor in a step"),
    "array": (lambda ops, i, v, k: v * numpy.ones(2), r"numbers and its arguments, got array"),
    "text": (lambda ops, i, v, k: v * "2", r"numbers and its arguments, got '2'"),
    "nothing": (lambda ops, i, v, k: v * None, r"numbers and its arguments, got None"),
    "index": (lambda ops, i, v, k: v[0], r"'value\[\.\.\.\]' is not in the op vocabulary"),
    "iteration": (lambda ops, i, v, k: sum(v), r"a loop over a value"),
    "too many arguments": (lambda ops, i, v, k: ops.exp(v, i), r"'ops\.exp' takes 1 value, by position"),
    "too few arguments": (lambda ops, i, v, k: ops.max(v), r"'ops\.max' takes 2 values"),
    "named arguments": (lambda ops, i, v, k: ops.where(v > 0, x=v, y=i), r"'ops\.where' takes 3 values"),
    "sum of a comparison": (lambda ops, i, v, k: (v > 0) * i, r"a comparison is not a number"),
    "spike of a comparison": (lambda ops, i, v, k: ops.spike(v > 0), r"a comparison is not a number"),
    "condition that is none": (lambda ops, i, v, k: ops.where(v, v, i), r"ops\.where must be a comparison"),
    "fault of its own": (lambda ops, i, v, k: v * {}["gain"], r"it fails with KeyError: 'gain'"),
    "overflow": (lambda ops, i, v, k: v * ops.exp(1e4), r"fails with OverflowError"),
}


@pytest.mark.parametrize("varying", [False, True], ids=["numbers", "per-neuron"])
@pytest.mark.parametrize("case", OUTSIDE)
def test_what_is_outside_of_the_vocabulary_is_refused_with_neuron_and_name_and_line(case, varying):
    f, message = OUTSIDE[case]
    with pytest.raises(TraceError, match=f"^neuron 'Probe': .*{message}") as caught:
        traced(of_value(f), varying)
    assert f"(see test_trace.py:{f.__code__.co_firstlineno}: " in str(caught.value)


RETURNED = {
    "states by position": (
        lambda ops, i, s, p: (s.v, (s.v,)),
        r"must return a pair: .*as s\.replace\(v=\.\.\.\)",
    ),
    "no states": (lambda ops, i, s, p: (s.v, ()), "must return a pair"),
    "state without its name": (lambda ops, i, s, p: (s.v, s.v), "must return a pair"),
    "output alone": (lambda ops, i, s, p: s.v, "must return a pair"),
    "parameters as states": (lambda ops, i, s, p: (s.v, p), "must return a pair"),
    "nothing": (lambda ops, i, s, p: None, "must return a pair"),
    "number as output": (lambda ops, i, s, p: (1.0, s), "its output is a number"),
    "parameter as output": (lambda ops, i, s, p: (p.k, s), "its output is a number"),
    "number as state": (lambda ops, i, s, p: (s.v, s.replace(v=0.0)), "its state 'v' is a number"),
    "comparison as output": (lambda ops, i, s, p: (s.v > 0, s), r"its output is a comparison"),
    "comparison as state": (
        lambda ops, i, s, p: (s.v, s.replace(v=s.v > 0)),
        "its state 'v' is a comparison",
    ),
    "tuple as state": (lambda ops, i, s, p: (s.v, s.replace(v=(s.v,))), "its state 'v' is a number"),
    "state that is none": (lambda ops, i, s, p: (s.v, s.replace(w=s.v)), "no 'w'; known: v"),
    "state that is not there": (lambda ops, i, s, p: (s.vv, s), "no 'vv'; known: v; did you mean 'v'"),
    "parameter that is not there": (lambda ops, i, s, p: (p.kk * s.v, s), "no 'kk', but k; did you mean 'k'"),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_step_returns_is_an_output_and_every_state(case):
    step, message = RETURNED[case]
    with pytest.raises(TraceError, match=f"^neuron 'Probe': .*{message}"):
        traced(probe(step))


class Sine(Surrogate):
    """A shape that the vocabulary cannot express."""

    def derivative(self, ops, x, slope):
        return ops.sin(slope * x)


def test_a_surrogate_outside_of_the_vocabulary_is_named_instead_of_the_neuron():
    neuron = registry.configure("neurons", "lif", "neuron").build()
    with pytest.raises(TraceError, match=r"surrogate 'Sine': 'ops\.sin' .*\(see test_trace\.py:\d+: return"):
        emit.build_program(neuron, Sine.from_options(), (False, False))
