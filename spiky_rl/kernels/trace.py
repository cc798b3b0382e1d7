"""A neuron's step as a graph: the tracing twin of the op vocabulary, and reverse mode.

Calling a step with `TraceOps` and symbols instead of tensors records it: an expression graph in which equal expressions
are one node. Numbers are folded as they are met. Parameters that are numbers stay *uniform*: an expression of uniforms
alone is evaluated on the host, in the double precision in which Python evaluates it for the torch reference, and reaches
the kernel as one float. All else is computed per *lane*, a neuron of a sample. `gradients` adds the nodes of the adjoint
to the same graph, so it shares with the forward what it needs of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spiky_rl.registry import RegistryError, nearest
from spiky_rl.surrogates.base import Surrogate

Value = Any
"""A `Node`, or a number."""

COMPARISONS = {"<", "<=", ">", ">="}
FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "exp": math.exp,
    "tanh": math.tanh,
    "tan": math.tan,
    "sqrt": math.sqrt,
    "abs": abs,
}
NUMBERS: Mapping[str, Callable[..., Any]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "neg": lambda x: -x,
    "max": max,
    "min": min,
    "where": lambda c, x, y: x if c else y,
    "heaviside": lambda x: float(x >= 0),
    "spike": lambda x: float(x >= 0),
    "detach": lambda x: x,
    **FUNCTIONS,
}
"""Every operation on plain numbers; these are also the operations there are."""


class TraceError(RegistryError):
    """A step that leaves the op vocabulary."""


class Node:
    """One expression: an operation and its arguments, or an input."""

    def __init__(self, graph: Graph, op: str, args: tuple[Value, ...], lane: bool) -> None:
        self.graph, self.op, self.args, self.lane = graph, op, args, lane
        self.index = len(graph.nodes)

    def __repr__(self) -> str:
        return f"<{self.op} {self.index}>"

    def __add__(self, other: Value) -> Value:
        return self.graph.make("+", self, other)

    def __radd__(self, other: Value) -> Value:
        return self.graph.make("+", other, self)

    def __sub__(self, other: Value) -> Value:
        return self.graph.make("-", self, other)

    def __rsub__(self, other: Value) -> Value:
        return self.graph.make("-", other, self)

    def __mul__(self, other: Value) -> Value:
        return self.graph.make("*", self, other)

    def __rmul__(self, other: Value) -> Value:
        return self.graph.make("*", other, self)

    def __truediv__(self, other: Value) -> Value:
        return self.graph.make("/", self, other)

    def __rtruediv__(self, other: Value) -> Value:
        if not self.lane:
            return self.graph.make("/", other, self)
        # torch computes number / tensor as number * (1 / tensor): the same two roundings here
        return self.graph.make("*", self.graph.make("/", 1.0, self), other)

    def __neg__(self) -> Value:
        return self.graph.make("neg", self)

    def __pow__(self, exponent: Value) -> Value:
        if exponent == 2:
            return self * self
        if exponent == 3:
            return self * self * self
        raise self.graph.error(f"'** {exponent}' is not in the op vocabulary; squares and cubes are")

    def __lt__(self, other: Value) -> Value:
        return self.graph.make("<", self, other)

    def __le__(self, other: Value) -> Value:
        return self.graph.make("<=", self, other)

    def __gt__(self, other: Value) -> Value:
        return self.graph.make(">", self, other)

    def __ge__(self, other: Value) -> Value:
        return self.graph.make(">=", self, other)

    def __bool__(self) -> bool:
        raise self.graph.error("a branch on a state, current or parameter; use ops.where")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.graph.error(f"'.{name}' of a value is not in the op vocabulary")


class Graph:
    """The nodes of one step, each expression once."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.nodes: list[Node] = []
        self.known: dict[tuple[Any, ...], Node] = {}

    def error(self, message: str) -> TraceError:
        """What is wrong with the step, with the neuron's name."""
        return TraceError(f"neuron {self.owner!r}: {message}")

    def input(self, name: str, lane: bool = True) -> Node:
        """A symbol: an argument of the step."""
        return self._node(("input", name), "input", (name,), lane)

    def make(self, op: str, *args: Value) -> Value:
        """The expression ``op(*args)``; a number if it is one."""
        for x in args:
            if not isinstance(x, Node | int | float):
                raise self.error(f"a step computes with numbers and its arguments, got {x!r}")
        if not any(isinstance(x, Node) for x in args):
            return NUMBERS[op](*args)
        if op == "*":
            for x, y in (args, args[::-1]):
                if not isinstance(x, Node) and x == 1.0:
                    return y
        if op == "detach" and args[0].op in ("input", "detach", "heaviside") and not args[0].lane:
            return args[0]
        key = (op, *(x.index if isinstance(x, Node) else ("number", float(x).hex()) for x in args))
        lane = any(isinstance(x, Node) and x.lane for x in args)
        return self._node(key, op, args, lane)

    def _node(self, key: tuple[Any, ...], op: str, args: tuple[Value, ...], lane: bool) -> Node:
        if key not in self.known:
            self.known[key] = Node(self, op, args, lane)
            self.nodes.append(self.known[key])
        return self.known[key]


class TraceOps:
    """The op vocabulary on symbols. Anything else is refused by name."""

    vocabulary = (*FUNCTIONS, "max", "min", "where", "heaviside", "spike", "detach")

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if name not in self.vocabulary:
            raise self.graph.error(
                f"'ops.{name}' is not in the op vocabulary: {', '.join(self.vocabulary)}{nearest(name, self.vocabulary)}"
            )
        return lambda *args: self.graph.make(name, *args)


def gradients(
    graph: Graph,
    surrogate: Surrogate,
    slope: Value,
    seeds: Iterable[tuple[Value, Node]],
    wrt: Sequence[Node],
) -> list[Value]:
    """Reverse mode: gradients of ``wrt``, given that of every output: (output, its gradient) pairs."""
    ops = TraceOps(graph)
    adjoints: dict[int, Value] = {}

    def add(x: Value, gradient: Value) -> None:
        if isinstance(x, Node) and x.lane:
            adjoints[x.index] = adjoints[x.index] + gradient if x.index in adjoints else gradient

    for output, gradient in seeds:
        add(output, gradient)
    for node in reversed(graph.nodes[:]):
        g = adjoints.get(node.index)
        if g is None or node.op == "input":
            continue
        match node.op, *node.args:
            case "+", x, y:
                add(x, g)
                add(y, g)
            case "-", x, y:
                add(x, g)
                add(y, -g)
            case "*", x, y:
                add(x, g * y)
                add(y, g * x)
            case "/", x, y:
                add(x, g / y)
                add(y, -g * (node / y))
            case "neg", x:
                add(x, -g)
            case "exp", x:
                add(x, g * node)
            case "tanh", x:
                add(x, g * (1.0 - node * node))
            case "tan", x:
                add(x, g * (1.0 + node * node))
            case "sqrt", x:
                add(x, g / (2.0 * node))
            case "abs", x:
                add(x, ops.where(x > 0.0, g, ops.where(x < 0.0, -g, 0.0)))
            case ("max" | "min") as op, x, y:
                for a, b in ((x, y), (y, x)):
                    add(a, _share(ops, op, g, a, b))
            case "where", condition, x, y:
                add(x, ops.where(condition, g, 0.0))
                add(y, ops.where(condition, 0.0, g))
            case "spike", x:
                add(x, g * surrogate.derivative(ops, x, slope))
    return [adjoints.get(x.index, 0.0) for x in wrt]


def _share(ops: TraceOps, op: str, g: Value, x: Value, y: Value) -> Value:
    """Gradient of one argument of a maximum or minimum: all, or nothing, or half of it where two lanes are equal."""
    if not (isinstance(x, Node) and x.lane):
        return 0.0
    if not (isinstance(y, Node) and y.lane):
        return ops.where(x >= y if op == "max" else x <= y, g, 0.0)
    ahead, behind = (x > y, x < y) if op == "max" else (x < y, x > y)
    return ops.where(ahead, g, ops.where(behind, 0.0, 0.5 * g))


def evaluate(nodes: Sequence[Value], inputs: Mapping[str, float]) -> list[float]:
    """Uniform expressions as numbers."""
    values: dict[int, float] = {}

    def value(x: Value) -> float:
        if not isinstance(x, Node):
            return x
        if x.index not in values:
            values[x.index] = (
                inputs[x.args[0]] if x.op == "input" else NUMBERS[x.op](*(value(a) for a in x.args))
            )
        return values[x.index]

    return [float(value(x)) for x in nodes]
