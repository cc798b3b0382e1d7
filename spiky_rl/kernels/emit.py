"""A traced step as C text. CPU and GPU compile the same text: on a GPU a lane is a float, on a CPU a vector of floats.

A neuron's text has a few constants and two functions, ``step`` and ``step_adjoint``. A neuron that divides its step has ``advance``
and ``emit`` with their adjoints instead. `lanes.h` defines the lane type and its functions, `loops.h` runs them over time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spiky_rl.kernels import trace
from spiky_rl.kernels.trace import Expression, Node, TraceError, TraceGraph, TraceOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

INFIX = {"+", "-", "*", "/", *trace.COMPARISONS}


@dataclass(frozen=True)
class KernelProgram:
    """A neuron's program: the C text, its parameters and states."""

    neuron: str
    """Name of the neuron, for messages."""
    text: str
    """C: constants and functions."""
    slots: tuple[Node, ...]
    """Uniform expressions (one value for all neurons), which the kernel takes as ``u``."""
    names: tuple[str, ...]
    """Names of the neuron's parameters."""
    varying: tuple[bool, ...]
    """Whether each parameter differs between neurons, in the order of ``names``."""
    states: int
    """Number of states."""

    def uniforms(self, numbers: dict[str, float]) -> list[float]:
        """Return the values of ``u``, given the ``numbers``: "parameter NAME" for each uniform parameter, and "slope"."""
        try:
            return trace.evaluate(self.slots, numbers)
        except (ArithmeticError, ValueError) as error:
            raise TraceError(f"neuron {self.neuron!r}: its step fails with {error} for {numbers}") from error


def build_program(neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> KernelProgram:
    """Trace a neuron's step, derive its adjoint, and write both as C.

    Args:
        neuron: The neuron.
        surrogate: Defines the derivative of the neuron's spike.
        varying: For each parameter in order, whether it differs between neurons.

    Raises `TraceError` if the step leaves the op vocabulary or does not return an output and all states.
    """
    writer = StepWriter(neuron, surrogate, varying)
    if neuron.substeps == 1:
        parts = [writer.write_function("step", neuron.step, True, False)]
    else:
        parts = [
            writer.write_function("advance", neuron.substep, True, True),
            writer.write_function("emit", neuron.finish_step, False, True),
        ]
    constants = {
        "STATES": len(neuron.states),
        "PARAMETERS": sum(varying),
        "UNIFORMS": len(writer.slots),
        "SUBSTEPS": neuron.substeps,
    }
    defines = [f"#define {name} {value}" for name, value in constants.items()]
    count = range(len(writer.slots))
    defines.append(f"#define UNIFORM_PARAMETERS {''.join(f', float u{i}' for i in count)}")
    defines.append(f"#define UNIFORM_VALUES {', '.join(f'u{i}' for i in count) or '0.0f'}")
    return KernelProgram(
        type(neuron).__name__,
        "\n".join([*defines, "", *parts]),
        tuple(writer.slots),
        tuple(neuron.params),
        varying,
        len(neuron.states),
    )


class TracedFunction(NamedTuple):
    """A recorded function of a neuron: the symbols of its arguments, and the expressions that it returns."""

    params: list[Node]
    states: list[Node]
    peak: list[Node]
    """The highest distance to threshold so far; empty if the function does not take it."""
    current: list[Node]
    """Empty if the function does not take it."""
    updates: list[Node]
    """New states, then the new peak if the function advances a sub-step."""
    outputs: list[Node]
    """The output; empty if the function advances a sub-step."""


class StepWriter:
    """Writer of one neuron's C functions, which share their uniform slots."""

    def __init__(self, neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> None:
        self.neuron, self.surrogate, self.varying = neuron, surrogate, varying
        self.graph = TraceGraph()
        self.slots: list[Node] = []

    def write_function(
        self, name: str, step: Callable[..., object], has_current: bool, has_peak: bool
    ) -> str:
        """Return the C text of one function and its adjoint.

        Args:
            name: Name of the C function.
            step: The neuron's function.
            has_current: Whether the function takes the current.
            has_peak: Whether the function takes the highest distance to threshold so far.
        """
        graph = self.graph
        params, states, peak, current, updates, outputs = self.trace_function(
            name, step, has_current, has_peak
        )
        seeds = [(x, graph.input(f"g[{i}]")) for i, x in enumerate(updates)]
        seeds += [(x, graph.input("go")) for x in outputs]
        lanes = [p for p in params if p.lane]
        wrt = [*states, *peak, *lanes, *current]
        gradients = trace.differentiate(graph, self.surrogate, graph.input("slope", False), seeds, wrt)
        width = len(states) + len(peak)
        targets = [(f"g[{i}] =", x) for i, x in enumerate(gradients[:width])]
        targets += [(f"gp[{i}] +=", x) for i, x in enumerate(gradients[width : width + len(lanes)])]
        targets += [("gi +=", x) for x in gradients[width + len(lanes) :]]
        arguments = "F i, " if has_current else ""
        forward = self.write_body(
            [(f"s[{i}] =", x) for i, x in enumerate(updates)] + [("out =", x) for x in outputs]
        )
        adjoint = self.write_body(targets)
        result = ", F &out" if outputs else ""
        return (
            f"INLINE void {name}({arguments}F *s, const F *p, const float *u{result}) {{\n{forward}}}\n\n"
            f"INLINE void {name}_adjoint({arguments}const F *s, const F *p, const float *u, "
            f"{'F go, ' if outputs else ''}F *g, F *gp, F &gi) {{\n{adjoint}}}\n"
        )

    def trace_function(
        self, name: str, step: Callable[..., object], has_current: bool, has_peak: bool
    ) -> TracedFunction:
        """Record one function of the neuron; the arguments are as for `write_function`.

        Parameters that vary are called ``p[0]``, ``p[1]``, ..., the others "parameter NAME", which no other input can be called;
        states ``s[0]``, ``s[1]``, ..., the peak after them; the current ``i``.
        """
        graph, ops = self.graph, TraceOps(self.graph)
        params = [
            graph.input(f"p[{sum(self.varying[:i])}]" if varies else f"parameter {key}", varies)
            for i, (key, varies) in enumerate(zip(self.neuron.params, self.varying, strict=True))
        ]
        count = len(self.neuron.states)
        states = [graph.input(f"s[{i}]") for i in range(count)]
        peak = [graph.input(f"s[{count}]")] if has_peak else []
        current = [graph.input("i")] if has_current else []
        named, values = self.neuron.named_states(*states), self.neuron.named_params(*params)
        first, new = self.check_returned(
            name, trace.call_function(self.neuron, step, ops, *current, *peak, named, values)
        )
        # advance returns (peak, states), and the peak is one more state; step and emit return (output, states)
        advances = has_current and has_peak
        updates = [*new, first] if advances else list(new)
        return TracedFunction(params, states, peak, current, updates, [] if advances else [first])

    def check_returned(self, name: str, returned: object) -> tuple[Node, Sequence[Node]]:
        """Return the output (or peak) and the states that the function ``name`` has ``returned``.

        Raises `TraceError` if one is missing or is not a value per neuron.
        """
        first, new = None, None
        if isinstance(returned, tuple | list) and len(returned) == 2:
            first, new = returned
        if not isinstance(new, self.neuron.named_states):
            raise trace.make_error(
                self.neuron, f"its {name} must return a pair: its output, and its states, as s.replace(v=...)"
            )
        nodes = []
        for label, x in zip(
            ("output", *(f"state {n!r}" for n in self.neuron.states)), (first, *new), strict=True
        ):
            if not isinstance(x, Node) or not x.lane:
                raise trace.make_error(
                    self.neuron,
                    f"its {label} is a number that depends on no current and no state; return 0.0 * v + number",
                )
            if x.op in trace.COMPARISONS:
                raise trace.make_error(
                    self.neuron, f"its {label} is a comparison; use ops.where(condition, 1.0, 0.0)"
                )
            nodes.append(x)
        return nodes[0], nodes[1:]

    def write_body(self, targets: Sequence[tuple[str, Expression]]) -> str:
        """Return the C statements that compute the ``targets``: first their subexpressions, then the assignments.

        In this order every read precedes every write, because a target may also be an input.
        """
        needed: set[int] = set()

        def visit(x: Expression) -> None:
            if isinstance(x, Node) and x.lane and x.index not in needed:
                needed.add(x.index)
                for argument in x.args:
                    visit(argument)

        for _, x in targets:
            visit(x)
        lines, names = [], {}
        for node in self.graph.nodes:
            if node.index in needed:
                names[node.index] = f"t{node.index}"
                kind = "M" if node.op in trace.COMPARISONS else "F"
                lines.append(f"  const {kind} t{node.index} = {self.write_expression(node, names)};")
        lines += [f"  {target} {self.write_operand(x, names)};" for target, x in targets]
        return "".join(line + "\n" for line in lines)

    def write_expression(self, node: Node, names: dict[int, str]) -> str:
        """Return the C expression of ``node``; ``names`` holds the C names of earlier nodes."""
        if node.op == "input":
            return node.name
        args = [self.write_operand(x, names) for x in node.args]
        if node.op in INFIX:
            return f" {node.op} ".join(args)
        if node.op == "neg":
            return f"-{args[0]}"
        if node.op == "detach":
            return args[0]
        name = {"where": "select", "spike": "heaviside"}.get(node.op, node.op)
        return f"lane_{name}({', '.join(args)})"

    def write_operand(self, x: Expression, names: dict[int, str]) -> str:
        """Return the C text of an argument ``x``: one of the ``names``, a uniform, or a number rounded to float as torch rounds it."""
        if isinstance(x, Node) and x.lane:
            return names[x.index]
        if isinstance(x, Node):
            slot = next((i for i, known in enumerate(self.slots) if known is x), len(self.slots))
            if slot == len(self.slots):
                self.slots.append(x)
            value = f"LANE(u[{slot}])"
            return f"({value} > 0.5f)" if x.op in trace.COMPARISONS else value
        try:
            return f"LANE({format_literal(x)})"
        except TraceError as error:
            raise trace.make_error(self.neuron, str(error)) from None


def format_literal(x: float) -> str:
    """Return a C float literal with exactly the value that x rounds to."""
    try:
        rounded = struct.unpack("f", struct.pack("f", x))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise TraceError(f"the number {x!r} in a step does not fit a float")
    return f"{rounded!r}f"
