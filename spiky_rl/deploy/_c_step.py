"""The step of a neuron in C: the expressions that the kernels record of its equations, for one neuron."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from spiky_rl.deploy._c_term import Term, select
from spiky_rl.deploy._c_writer import CWriter
from spiky_rl.kernels import trace
from spiky_rl.kernels.emit import INFIX, StepWriter, format_literal
from spiky_rl.kernels.trace import Expression, Node
from spiky_rl.neurons.base import BELOW_ANY, Neuron
from spiky_rl.surrogates.rectangle import Rectangle

HELPERS = {"exp": "exponential", "tanh": "hyperbolic_tangent", "tan": "tangent", "sqrt": "square_root",
         "abs": "absolute", "max": "larger", "min": "smaller"}  # fmt: skip
"""Helper functions of `_c_writer.FUNCTIONS` by operation."""
PRECEDENCES = {"<": 3, "<=": 3, ">": 3, ">=": 3, "+": 5, "-": 5, "*": 6, "/": 6}
"""Precedence of the infix operations."""


def format_step(
    w: CWriter,
    path: str,
    neuron: Neuron,
    params: Sequence[Tensor | float],
    states: Sequence[str],
    current: str,
) -> tuple[list[str], str]:
    """Return C statements of an inner step of neuron n, and the C expression of its output.

    Args:
        w: Writer of the file.
        path: Prefix of the names of parameters that differ between neurons.
        params: The neuron's parameters as they enter the step: numbers, or [N] tensors.
        states: C expressions of the states, which the statements read and assign.
        current: C expression of the current.
    """
    printer = _Printer(w, path, neuron, params)
    local = [f"s_{name}" for name in neuron.states]
    kind = "const float" if neuron.substeps == 1 else "float"
    lines = [f"{kind} {name} = {state};" for name, state in zip(local, states, strict=True)]
    lines.append(f"const float current = {current};")
    if neuron.substeps == 1:
        body, (*updates, output) = printer.print_function("step", neuron.step, True, False)
        changes = zip(states, local, updates, strict=True)
        return [*lines, *body, *(f"{x} = {y};" for x, name, y in changes if y != name)], output
    lines += _format_substeps(printer, neuron, [*local, "peak"])
    body, (*updates, output) = printer.print_function("emit", neuron.finish_step, False, True)
    return [*lines, *body, *(f"{x} = {y};" for x, y in zip(states, updates, strict=True))], output


def _format_substeps(printer: _Printer, neuron: Neuron, local: list[str]) -> list[str]:
    """Return the loop over the parts of a step, which assigns the ``local`` states and the peak."""
    body, updates = printer.print_function("advance", neuron.substep, True, True)
    body += [f"const float new_{x} = {value};" for x, value in zip(local, updates, strict=True)]
    body += [f"{x} = new_{x};" for x in local]
    head = f"for (int part = 0; part < {neuron.substeps}; part++) {{"
    return [f"float peak = {format_literal(BELOW_ANY)};", head, *(f"  {line}" for line in body), "}"]


class _Printer:
    """Printer of recorded expressions: an expression that is used once is written where it is used, any other gets a name."""

    def __init__(self, w: CWriter, path: str, neuron: Neuron, params: Sequence[Tensor | float]) -> None:
        self.use_function = w.use_function
        varying = tuple(isinstance(value, Tensor) for value in params)
        self.tracer = StepWriter(neuron, Rectangle.from_options(), varying)
        self.numbers: dict[str, float] = {}
        self.inputs = {"i": "current", f"s[{len(neuron.states)}]": "peak"}
        """C name of each input of the traced functions."""
        self.inputs |= {f"s[{i}]": f"s_{name}" for i, name in enumerate(neuron.states)}
        arrays = itertools.count()
        for name, value in zip(neuron.params, params, strict=True):
            if isinstance(value, Tensor):
                self.inputs[f"p[{next(arrays)}]"] = w.format_element(f"{path}_{name}", value)
            else:
                self.numbers[f"parameter {name}"] = value
        self.names: dict[int, str] = {}
        self.uses: dict[int, int] = {}

    def print_function(
        self, name: str, step: Callable[..., object], has_current: bool, has_peak: bool
    ) -> tuple[list[str], list[str]]:
        """Return statements of a function's shared subexpressions, and the C expressions of its values."""
        traced = self.tracer.trace_function(name, step, has_current, has_peak)
        values = [*traced.updates, *traced.outputs]
        self.names, self.uses = {}, {}
        order: list[Node] = []
        for value in values:
            self._visit(value, order)
        lines = []
        for node in sorted(order, key=lambda node: node.index):
            is_simple = node.op in ("input", "detach", *trace.COMPARISONS)
            if self.uses[node.index] > 1 and not is_simple:
                text = self._format(node).text
                self.names[node.index] = f"t{len(self.names) + 1}"
                lines.append(f"const float {self.names[node.index]} = {text};")
        return lines, [self._format(value).text for value in values]

    def _visit(self, x: Expression, order: list[Node]) -> None:
        if not isinstance(x, Node) or not x.lane:
            return
        self.uses[x.index] = self.uses.get(x.index, 0) + 1
        if self.uses[x.index] == 1:
            order.append(x)
        if self.uses[x.index] == 1 or x.op == "detach":
            for argument in x.args:
                self._visit(argument, order)

    def _make(self, text: str) -> Term:
        return Term(text, [], self.use_function)

    def _format(self, x: Expression) -> Term:
        """Return the C expression of ``x``."""
        if not isinstance(x, Node) or not x.lane:
            return self._make(format_literal(self._evaluate(x)))
        if x.index in self.names:
            return self._make(self.names[x.index])
        if x.op == "input":
            return self._make(self.inputs[x.name])
        if x.op == "where":
            return self._format_choice(*x.args)
        first, *others = [self._format(argument) for argument in x.args]
        if x.op == "detach":
            return first
        if x.op == "neg":
            return -first
        if x.op in ("spike", "heaviside"):
            return select(first.infix(">=", self._make("0.0f"), 3), self._make("1.0f"), self._make("0.0f"))
        if x.op == "*" and "1.0f" in (first.text, others[0].text):
            return others[0] if first.text == "1.0f" else first
        if x.op in INFIX:
            return first.infix(x.op, others[0], PRECEDENCES[x.op])
        return first.call(HELPERS[x.op], *others)

    def _format_choice(self, condition: Expression, x: Expression, y: Expression) -> Term:
        if isinstance(condition, Node) and not condition.lane:
            return self._format(x if self._evaluate(condition) else y)
        return select(*(self._format(part) for part in (condition, x, y)))

    def _evaluate(self, x: Expression) -> float:
        """Return the value of ``x``, which is the same for all neurons."""
        return trace.evaluate([x], self.numbers)[0] if isinstance(x, Node) else x
