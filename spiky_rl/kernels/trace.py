"""A neuron's step as a graph: the op vocabulary on symbols, and reverse-mode differentiation.

A step that is called with `TraceOps` and symbols instead of tensors is recorded as an expression graph, in which equal expressions
are one node. Operations on numbers are computed at once. Parameters that are the same for all neurons are *uniform*: an expression
of uniforms only is evaluated on the host, in double precision like Python's own arithmetic in the torch reference, and reaches the
kernel as one float. Every other expression is computed per *lane*, a neuron of a sample. `differentiate` adds the adjoint's nodes
to the same graph, so forward and adjoint share expressions.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from spiky_rl.config.registry import Component, RegistryError, suggest_name
from spiky_rl.neurons.base import Ops, Value
from spiky_rl.surrogates.base import Surrogate

type Expression = Node | float
"""The result of an operation: a number if all arguments are numbers."""

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
    "**": lambda x, y: x**y,
    "neg": lambda x: -x,
    "max": max,
    "min": min,
    "where": lambda c, x, y: x if c else y,
    "heaviside": lambda x: float(x >= 0),
    "spike": lambda x: float(x >= 0),
    "detach": lambda x: x,
    **FUNCTIONS,
}
"""Every operation of the graph, on plain numbers."""
ARGUMENT_COUNTS = {"max": 2, "min": 2, "where": 3}
"""Number of arguments of each function; 1 if it is not listed."""
REFUSED = {
    "__bool__": "a branch on a state, current or parameter; use ops.where",
    "__eq__": "'==' is not in the op vocabulary; <, <=, > and >= are",
    "__ne__": "'!=' is not in the op vocabulary; <, <=, > and >= are",
    "__and__": "'&' is not in the op vocabulary; use ops.where inside ops.where",
    "__or__": "'|' is not in the op vocabulary; use ops.where inside ops.where",
    "__invert__": "'~' is not in the op vocabulary; swap the arguments of ops.where",
    "__rpow__": "'number ** value' is not in the op vocabulary; use ops.exp",
    "__mod__": "'%' is not in the op vocabulary",
    "__floordiv__": "'//' is not in the op vocabulary; / is",
    "__abs__": "'abs(value)' is not in the op vocabulary; use ops.abs",
    "__float__": "'float(value)', or a function of numbers such as math.exp, is not in the op vocabulary; use ops.exp",
    "__getitem__": "'value[...]' is not in the op vocabulary; a value is one number per neuron",
    "__iter__": "a loop over a value, or unpacking it, is not in the op vocabulary; a value is one number per neuron",
}
"""Python operators that a traced value refuses, and the hint of the error."""


BASES = ("spiky_rl.config.registry", "spiky_rl.neurons.base", "spiky_rl.surrogates.base")
"""Modules of base classes, which a component's author did not write."""


class TraceError(RegistryError):
    """An error in the code of a neuron or surrogate, such as an operation outside the op vocabulary."""


def make_error(owner: Component, message: str) -> TraceError:
    """Return an error with ``message`` that names the ``owner``, a neuron or surrogate."""
    kind = "surrogate" if isinstance(owner, Surrogate) else "neuron"
    return TraceError(f"{kind} {type(_get_source_component(owner)).__name__!r}: {message}")


def find_source_files(owner: Component) -> list[str]:
    """Return the files in which the author wrote ``owner``, a neuron or surrogate; the file of its class comes first."""
    modules = [
        sys.modules.get(cls.__module__)
        for cls in type(_get_source_component(owner)).__mro__
        if cls.__module__ not in BASES
    ]
    return [file for module in modules if (file := getattr(module, "__file__", None))]


def _get_source_component(owner: Component) -> Component:
    """Return the component that the author wrote: ``owner``, or the neuron that it wraps."""
    return getattr(owner, "source_neuron", owner)


def call_function[**P, R](owner: Component, function: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
    """Return ``function(*args, **named)``, a function of the neuron or surrogate ``owner``.

    Raises `TraceError`, with file and line, for every error in the function.
    """
    try:
        return function(*args, **named)
    except Exception as reason:  # pylint: disable=broad-exception-caught
        # numpy wraps a TraceError in an error of its own
        refusal = next((e for e in (reason, reason.__cause__) if isinstance(e, TraceError)), None)
        message = str(refusal or f"it fails with {type(reason).__name__}: {reason}")
        own = find_source_files(owner)
        lines = [frame for frame in traceback.extract_tb(reason.__traceback__) if frame.filename in own]
        line = f":{lines[-1].lineno}: {lines[-1].line}" if lines else ""
        file = lines[-1].filename if lines else next(iter(own), None)
        where = f" (see {Path(file).name}{line})" if file else ""
        raise make_error(owner, message + where) from (None if refusal else reason)


class Node:
    """One expression: an operation with its arguments, or a named input."""

    def __init__(
        self, graph: TraceGraph, op: str, args: tuple[Expression, ...], lane: bool, name: str
    ) -> None:
        self.graph, self.op, self.args, self.lane, self.name = graph, op, args, lane, name
        self.index = len(graph.nodes)

    def __repr__(self) -> str:
        return f"<{self.op} {self.index}>"

    def __add__(self, other: Value) -> Expression:
        return self.graph.make("+", self, other)

    def __radd__(self, other: Value) -> Expression:
        return self.graph.make("+", other, self)

    def __sub__(self, other: Value) -> Expression:
        return self.graph.make("-", self, other)

    def __rsub__(self, other: Value) -> Expression:
        return self.graph.make("-", other, self)

    def __mul__(self, other: Value) -> Expression:
        return self.graph.make("*", self, other)

    def __rmul__(self, other: Value) -> Expression:
        return self.graph.make("*", other, self)

    def __truediv__(self, other: Value) -> Expression:
        if not self.lane and isinstance(other, Node):
            return other.__rtruediv__(self)
        return self.graph.make("/", self, other)

    def __rtruediv__(self, other: Value) -> Expression:
        if not self.lane:
            return self.graph.make("/", other, self)
        # torch computes number / tensor as number * (1 / tensor): the same two roundings here
        return self.graph.make("*", self.graph.make("/", 1.0, self), other)

    def __neg__(self) -> Expression:
        return self.graph.make("neg", self)

    def __pow__(self, exponent: Value) -> Expression:
        if not isinstance(exponent, Node) and exponent in (2, 3):
            if not self.lane:
                return self.graph.make("**", self, exponent)
            return self * self if exponent == 2 else self * self * self
        raise TraceError(f"'** {exponent}' is not in the op vocabulary; squares and cubes are")

    def __lt__(self, other: Value) -> Expression:
        return self.graph.make("<", self, other)

    def __le__(self, other: Value) -> Expression:
        return self.graph.make("<=", self, other)

    def __gt__(self, other: Value) -> Expression:
        return self.graph.make(">", self, other)

    def __ge__(self, other: Value) -> Expression:
        return self.graph.make(">=", self, other)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise TraceError(f"'.{name}' of a value {format_unknown_function(name)}")

    @classmethod
    def __torch_function__(cls, function: Callable[..., object], *_: object) -> NoReturn:
        name = function.__name__
        raise TraceError(f"'torch.{name}', or a tensor in a step, {format_unknown_function(name)}")


def _make_refusal(message: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise TraceError(message)

    return refuse


for method, hint in REFUSED.items():
    setattr(Node, method, _make_refusal(hint))


def _simplify(op: str, args: tuple[Expression, ...]) -> Expression | None:
    """Return the argument that equals ``op`` on ``args``: the other factor of 1, or an input that has no gradient; else None."""
    if op == "*":
        for x, y in (args, args[::-1]):
            if not isinstance(x, Node) and x == 1.0:
                return y
    x = args[0]
    if op == "detach" and isinstance(x, Node) and x.op in ("input", "detach", "heaviside") and not x.lane:
        return x
    return None


class TraceGraph:
    """The nodes of one step; equal expressions are one node."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.known: dict[tuple[object, ...], Node] = {}

    def input(self, name: str, lane: bool = True) -> Node:
        """Return the symbol for the step's argument ``name``; ``lane`` if it differs between neurons."""
        return self._node(("input", name), "input", (), lane, name)

    def make(self, op: str, *given: object) -> Expression:
        """Check the values ``given`` and return the expression of ``op`` on them; a number if all values are numbers."""
        args = tuple(_check_operand(x) for x in (given[1:] if op == "where" else given))
        if op == "where":
            condition = given[0]
            if not isinstance(condition, Node):
                return args[0] if condition else args[1]
            if condition.op not in COMPARISONS:
                raise TraceError("the condition of ops.where must be a comparison")
            args = (condition, *args)
        if not any(isinstance(x, Node) for x in args):
            return NUMBERS[op](*args)
        if (known := _simplify(op, args)) is not None:
            return known
        key = (op, *(x.index if isinstance(x, Node) else ("number", float(x).hex()) for x in args))
        lane = any(isinstance(x, Node) and x.lane for x in args)
        return self._node(key, op, args, lane)

    def _node(
        self, key: tuple[object, ...], op: str, args: tuple[Expression, ...], lane: bool, name: str = ""
    ) -> Node:
        if key not in self.known:
            self.known[key] = Node(self, op, args, lane, name)
            self.nodes.append(self.known[key])
        return self.known[key]


def _check_operand(x: object) -> Expression:
    """Return ``x`` as an operand. Raises `TraceError` if a step cannot compute with it."""
    if isinstance(x, Node):
        if x.op in COMPARISONS:
            raise TraceError("a comparison is not a number; use ops.where(condition, 1.0, 0.0)")
        return x
    if not isinstance(x, int | float):
        raise TraceError(f"a step computes with numbers and its arguments, got {x!r}")
    return float(x) if isinstance(x, bool) else x


class TraceOps(Ops):
    """The op vocabulary on symbols. Raises `TraceError` for any other function."""

    vocabulary = (*FUNCTIONS, "max", "min", "where", "heaviside", "spike", "detach")

    def __init__(self, graph: TraceGraph) -> None:
        self.graph = graph

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if name not in self.vocabulary:
            raise TraceError(f"'ops.{name}' {format_unknown_function(name)}")
        count = ARGUMENT_COUNTS.get(name, 1)

        def function(*args: Value, **named: Value) -> Value:
            if named or len(args) != count:
                raise TraceError(f"'ops.{name}' takes {count} value{'s' * (count > 1)}, by position")
            return self.graph.make(name, *args)

        return function


def format_unknown_function(name: str) -> str:
    """Return the message for the unsupported function ``name``: the vocabulary, and the function with the nearest name."""
    return f"is not in the op vocabulary: {', '.join(TraceOps.vocabulary)}{suggest_name(name, TraceOps.vocabulary)}"


def differentiate(
    graph: TraceGraph,
    surrogate: Surrogate,
    slope: Expression,
    seeds: Iterable[tuple[Value, Node]],
    wrt: Sequence[Node],
) -> list[Expression]:
    """Return the gradients of ``wrt`` by reverse mode.

    Args:
        graph: The forward graph; receives the nodes of the adjoint.
        surrogate: Defines the derivative of a spike.
        slope: Slope of the surrogate.
        seeds: Every output with its gradient.
        wrt: Nodes to differentiate with respect to.
    """
    adjoints: dict[int, Expression] = {}

    def where(condition: object, x: Expression, y: Expression) -> Expression:
        return graph.make("where", condition, x, y)

    def add(x: Value, gradient: Expression) -> None:
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
                share = g / y
                add(x, share)
                add(y, -(share * node))
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
                add(x, where(x > 0.0, g, where(x < 0.0, -g, 0.0)))
            case ("max" | "min") as op, x, y:
                for a, b in ((x, y), (y, x)):
                    add(a, _split_gradient(graph, op, g, a, b))
            case "where", condition, x, y:
                add(x, where(condition, g, 0.0))
                add(y, where(condition, 0.0, g))
            case "spike", x:
                derivative = call_function(surrogate, surrogate.derivative, TraceOps(graph), x, slope)
                add(x, graph.make("*", g, derivative))
    return [adjoints.get(x.index, 0.0) for x in wrt]


def _split_gradient(graph: TraceGraph, op: str, g: Expression, x: Expression, y: Expression) -> Expression:
    """Return the gradient of ``x`` in a maximum or minimum of ``x`` and ``y``: all of ``g`` or nothing, or half if both are equal lanes."""
    if not (isinstance(x, Node) and x.lane):
        return 0.0
    if not (isinstance(y, Node) and y.lane):
        return graph.make("where", x >= y if op == "max" else x <= y, g, 0.0)
    ahead, behind = (x > y, x < y) if op == "max" else (x < y, x > y)
    return graph.make("where", ahead, g, graph.make("where", behind, 0.0, 0.5 * g))


def evaluate(nodes: Sequence[Expression], inputs: Mapping[str, float]) -> list[float]:
    """Return the values of the uniform expressions ``nodes``, given the ``inputs`` by name."""
    values: dict[int, float] = {}

    def value(x: Expression) -> float:
        if not isinstance(x, Node):
            return x
        if x.index not in values:
            values[x.index] = (
                inputs[x.name] if x.op == "input" else NUMBERS[x.op](*(value(a) for a in x.args))
            )
        return values[x.index]

    return [float(value(x)) for x in nodes]


def describe(nodes: Sequence[Expression]) -> str:
    """Return a text that is the same for equal ``nodes`` only: their operations, numbers and inputs."""
    operations: dict[int, tuple[object, ...]] = {}

    def visit(x: Expression) -> object:
        if not isinstance(x, Node):
            return float(x).hex()
        if x.index not in operations:
            operations[x.index] = (x.op, x.name, *map(visit, x.args))
        return x.index

    return repr(([visit(x) for x in nodes], operations))
