"""Arithmetic of a neuron's update: the operations of one step, counted in the traced expressions.

An expression that occurs twice counts once. Expressions of parameters alone do not count, because they are constant while a network
runs, and neither do expressions that serve only the gradient. A product with a spike is a selection and costs nothing; signs and
`where` cost nothing either, but both branches of a `where` count, because a kernel computes both. A comparison counts as a subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

from spiky_rl.kernels import trace
from spiky_rl.kernels.trace import Node, TraceGraph, TraceOps
from spiky_rl.neurons.base import Neuron, Ops, States, Value

COUNTED_AS_ADDITION = {*trace.COMPARISONS, "max", "min"}
"""Operations that count as an addition."""
TRANSCENDENTAL = {"exp", "tanh", "tan", "sqrt"}
"""Operations that count as transcendental."""


@dataclass(frozen=True)
class ArithmeticCounts:
    """Numbers of scalar operations; means may be fractions."""

    additions: float = 0.0
    """Additions, subtractions and comparisons."""
    multiplications: float = 0.0
    """Multiplications, and divisions by a constant."""
    transcendental: float = 0.0
    """exp, tanh, tan, sqrt and divisions of two variables; hardware computes them in several steps or by a table."""

    def __add__(self, other: ArithmeticCounts) -> ArithmeticCounts:
        return ArithmeticCounts(
            self.additions + other.additions,
            self.multiplications + other.multiplications,
            self.transcendental + other.transcendental,
        )

    def __mul__(self, times: float) -> ArithmeticCounts:
        return ArithmeticCounts(
            self.additions * times, self.multiplications * times, self.transcendental * times
        )

    @property
    def total(self) -> float:
        """Sum of all operations."""
        return self.additions + self.multiplications + self.transcendental


def count_neuron_arithmetic(neuron: Neuron) -> ArithmeticCounts:
    """Count one update of one ``neuron``, with all its sub-steps. Raises TraceError if its step uses more than `Ops` allows."""

    def count(function: Callable[..., tuple[Value, States]], *input_names: str) -> ArithmeticCounts:
        graph = TraceGraph()
        inputs = [graph.input(name) for name in input_names]
        states = neuron.named_states(*(graph.input(f"state {name}") for name in neuron.states))
        params = neuron.named_params(
            *(graph.input(f"parameter {name}", lane=False) for name in neuron.params)
        )
        output, new_states = trace.call_function(neuron, function, TraceOps(graph), *inputs, states, params)
        return _count_expressions([output, *new_states])

    if neuron.substeps == 1:
        return count(neuron.step, "current")
    substeps = count(neuron.substep, "current", "peak") * neuron.substeps
    return substeps + count(neuron.finish_step, "peak")


def count_synapse_and_traces(traces: int) -> ArithmeticCounts:
    """Count one inner step of a reservoir neuron's exponential synapse and of ``traces`` traces of its spikes."""

    def step(
        _: Ops, decay: Value, input_current: Value, synapse: Value, spike: Value, *trace_values: Value
    ) -> list[Value]:
        # the synaptic operations include adding the input to the synapse
        synapse = decay * synapse
        return [synapse, input_current + synapse, *(spike + decay * (r - spike) for r in trace_values)]

    return _count_function(step, 3 + traces, constants=1)


def count_activation_arithmetic(module: nn.Module) -> ArithmeticCounts | None:
    """Count one value of the activation ``module``; None if the module is not a known activation."""
    known = next((kind for kind in ACTIVATIONS if isinstance(module, kind)), None)
    return None if known is None else _count_function(ACTIVATIONS[known], 1)


def count_recurrent_arithmetic(module: nn.RNNBase) -> ArithmeticCounts:
    """Count the gates of one hidden unit in one step of a GRU, LSTM or plain RNN ``module``, without the matrix products."""
    if isinstance(module, nn.GRU):
        return _count_function(_gru, 7)
    if isinstance(module, nn.LSTM):
        return _count_function(_lstm, 9)
    return _count_function(lambda ops, x, h: [ops.tanh(x + h)], 2)


def _sigmoid(ops: Ops, x: Value) -> Value:
    return 0.5 + 0.5 * ops.tanh(0.5 * x)


def _gru(ops: Ops, h: Value, *products: Value) -> list[Value]:
    xr, hr, xz, hz, xn, hn = products
    z = _sigmoid(ops, xz + hz)
    n = ops.tanh(xn + _sigmoid(ops, xr + hr) * hn)
    return [n + z * (h - n)]


def _lstm(ops: Ops, c: Value, *products: Value) -> list[Value]:
    i, f, g, o = (products[k] + products[k + 4] for k in range(4))
    c = _sigmoid(ops, f) * c + _sigmoid(ops, i) * ops.tanh(g)
    return [c, _sigmoid(ops, o) * ops.tanh(c)]


def _elu(ops: Ops, x: Value) -> list[Value]:
    return [ops.where(x > 0.0, x, ops.exp(x) - 1.0)]


def _selu(ops: Ops, x: Value) -> list[Value]:
    return [1.05 * ops.where(x > 0.0, x, 1.67 * (ops.exp(x) - 1.0))]


def _softplus(ops: Ops, x: Value) -> list[Value]:
    # a logarithm costs as much as an exponential
    return [ops.exp(1.0 + ops.exp(x))]


ACTIVATIONS: dict[type[nn.Module], Callable[[Ops, Value], list[Value]]] = {
    nn.ELU: _elu,
    nn.CELU: _elu,
    nn.SELU: _selu,
    nn.ReLU: lambda ops, x: [ops.max(x, 0.0)],
    nn.LeakyReLU: lambda ops, x: [ops.max(x, 0.01 * x)],
    nn.Tanh: lambda ops, x: [ops.tanh(x)],
    nn.Sigmoid: lambda ops, x: [_sigmoid(ops, x)],
    nn.SiLU: lambda ops, x: [x * _sigmoid(ops, x)],
    nn.GELU: lambda ops, x: [x * _sigmoid(ops, 1.7 * x)],
    nn.Softplus: _softplus,
    nn.Mish: lambda ops, x: [x * ops.tanh(_softplus(ops, x)[0])],
}
"""Arithmetic of the activations in rsl_rl and skrl; only operations count, so constants are rounded."""


def _count_function(
    function: Callable[..., Iterable[Value]], inputs: int, constants: int = 0
) -> ArithmeticCounts:
    """Count the arithmetic of ``function(ops, *constants, *inputs)``."""
    graph = TraceGraph()
    fixed = [graph.input(f"constant {i}", lane=False) for i in range(constants)]
    return _count_expressions(
        function(TraceOps(graph), *fixed, *(graph.input(str(i)) for i in range(inputs)))
    )


def _count_expressions(outputs: Iterable[Value]) -> ArithmeticCounts:
    """Count the arithmetic of all expressions that the outputs depend on."""
    graph, simplified = TraceGraph(), {}
    to_visit = [_drop_gradient_terms(graph, x, simplified) for x in outputs]
    visited, total = set(), ArithmeticCounts()
    while to_visit:
        node = to_visit.pop()
        if _varies(node) and node.index not in visited:
            visited.add(node.index)
            total += _count_node(node)
            to_visit += node.args
    return total


def _drop_gradient_terms(graph: TraceGraph, x: Value, simplified: dict[int, Value]) -> Value:
    """Copy an expression to ``graph`` without terms that serve only the gradient: detach is the identity, and x - x is 0.

    ``simplified`` holds the result of every node of the old graph, by its index.
    """
    if not isinstance(x, Node):
        return x
    if x.index not in simplified:
        if x.op == "input":
            simplified[x.index] = graph.input(x.name, x.lane)
        else:
            args = [_drop_gradient_terms(graph, a, simplified) for a in x.args]
            simplified[x.index] = _simplify(graph, x.op, args)
    return simplified[x.index]


def _simplify(graph: TraceGraph, op: str, args: list[Value]) -> Value:
    """Make the node ``op`` of ``args``, or return one of them or 0 if the operation changes nothing."""
    if op == "detach":
        return args[0]
    if op == "-" and args[0] is args[1]:
        return 0.0
    if op == "+" and _is(args[0], 0.0):
        return args[1]
    if op in ("+", "-") and _is(args[1], 0.0):
        return args[0]
    return graph.make(op, *args)


def _is(x: Value, number: float) -> bool:
    # a node raises on ==
    return not isinstance(x, Node) and x == number


def _count_node(node: Node) -> ArithmeticCounts:
    op, args = node.op, node.args
    if op in COUNTED_AS_ADDITION or (op in ("+", "-") and not _is_binary(node)):
        return ArithmeticCounts(additions=1.0)
    if (op == "*" and not any(map(_is_binary, args))) or (op == "/" and not _varies(args[1])):
        return ArithmeticCounts(multiplications=1.0)
    if op in TRANSCENDENTAL or op == "/":
        return ArithmeticCounts(transcendental=1.0)
    return ArithmeticCounts()


def _varies(x: Value) -> TypeGuard[Node]:
    """Return whether an expression depends on states or inputs, not only on parameters and constants."""
    return isinstance(x, Node) and x.lane


def _is_binary(x: Value) -> bool:
    """Return whether a value is a spike, or one minus a spike, so that a product with it only selects."""
    if not isinstance(x, Node):
        return False
    return x.op in ("spike", "heaviside") or (x.op == "-" and _is(x.args[0], 1.0) and _is_binary(x.args[1]))
