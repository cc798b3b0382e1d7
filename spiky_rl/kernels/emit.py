"""A traced step as C text: the same for the GPU, where a lane is a float, and for the CPU, where it is a vector of them.

The text of a neuron is a few constants and two functions, ``step`` and ``step_adjoint`` (and the same for ``advance`` and
``emit`` where the neuron divides its step). `lanes.h` gives them the lane type and its functions, `loops.h` runs them
over time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spiky_rl.kernels import trace
from spiky_rl.kernels.trace import Expression, Node, TraceError, TraceGraph, TraceOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

INFIX = {"+", "-", "*", "/", *trace.COMPARISONS}


@dataclass(frozen=True)
class KernelProgram:
    """A neuron's program: the C text, its parameters and states."""

    neuron: str
    """Its name, for messages."""
    text: str
    """C: constants and functions."""
    slots: tuple[Node, ...]
    """Expressions of numbers that the kernel takes as ``u``."""
    names: tuple[str, ...]
    """The neuron's parameters; ``slope`` is the surrogate's."""
    varying: tuple[bool, ...]
    """Which parameters differ between neurons, in the order of ``names``."""
    states: int
    substeps: int

    def uniforms(self, numbers: dict[str, float]) -> list[float]:
        """The values of ``u`` for the ``numbers`` that parameters are, by name, and the slope."""
        try:
            return trace.evaluate(self.slots, numbers)
        except (ArithmeticError, ValueError) as error:
            raise TraceError(f"neuron {self.neuron!r}: its step fails with {error} for {numbers}") from error


def build_program(neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> KernelProgram:
    """Trace a neuron, derive its adjoint, write both down.

    Args:
        neuron: Whose step it is.
        surrogate: Gives the derivative of its spike.
        varying: Which of its parameters differ between neurons, in their order.

    Raises `TraceError` if the step leaves the op vocabulary or returns something else than an output and its states.
    """
    writer = _Writer(neuron, surrogate, varying)
    if neuron.substeps == 1:
        parts = [writer.function("step", neuron.step, True, False)]
    else:
        parts = [
            writer.function("advance", neuron.substep, True, True),
            writer.function("emit", neuron.finish_step, False, True),
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
        neuron.substeps,
    )


class _Writer:
    """Functions of one neuron, which share their uniform slots."""

    def __init__(self, neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> None:
        self.neuron, self.surrogate, self.varying = neuron, surrogate, varying
        self.graph = TraceGraph()
        self.slots: list[Node] = []

    def function(self, name: str, step: Callable[..., object], has_current: bool, has_peak: bool) -> str:
        """C text of one function and its adjoint.

        Args:
            name: What it is called there.
            step: The neuron's function.
            has_current: It takes the current.
            has_peak: It takes the highest distance to threshold so far.
        """
        graph, ops = self.graph, TraceOps(self.graph)
        params = [
            graph.input(f"p[{sum(self.varying[:i])}]" if varies else key, varies)
            for i, (key, varies) in enumerate(zip(self.neuron.params, self.varying, strict=True))
        ]
        count = len(self.neuron.states)
        states = [graph.input(f"s[{i}]") for i in range(count)]
        peak = [graph.input(f"s[{count}]")] if has_peak else []
        current = [graph.input("i")] if has_current else []
        named, values = self.neuron.named_states(*states), self.neuron.named_params(*params)
        first, new = self.checked(
            name, trace.call_function(self.neuron, step, ops, *current, *peak, named, values)
        )
        # advance returns (peak, states): the peak is one more state; step and emit return (output, states)
        updates = [*new, first] if has_current and has_peak else list(new)
        seeds = [(x, graph.input(f"g[{i}]")) for i, x in enumerate(updates)]
        outputs = [] if has_current and has_peak else [first]
        seeds += [(x, graph.input("go")) for x in outputs]
        lanes = [p for p in params if p.lane]
        wrt = [*states, *peak, *lanes, *current]
        gradients = trace.differentiate(graph, self.surrogate, graph.input("slope", False), seeds, wrt)
        width = count + len(peak)
        targets = [(f"g[{i}] =", x) for i, x in enumerate(gradients[:width])]
        targets += [(f"gp[{i}] +=", x) for i, x in enumerate(gradients[width : width + len(lanes)])]
        targets += [("gi +=", x) for x in gradients[width + len(lanes) :]]
        arguments = "F i, " if has_current else ""
        forward = self.body(
            [(f"s[{i}] =", x) for i, x in enumerate(updates)] + [("out =", x) for x in outputs]
        )
        adjoint = self.body(targets)
        result = ", F &out" if outputs else ""
        return (
            f"INLINE void {name}({arguments}F *s, const F *p, const float *u{result}) {{\n{forward}}}\n\n"
            f"INLINE void {name}_adjoint({arguments}const F *s, const F *p, const float *u, "
            f"{'F go, ' if outputs else ''}F *g, F *gp, F &gi) {{\n{adjoint}}}\n"
        )

    def checked(self, name: str, returned: object) -> tuple[Node, Sequence[Node]]:
        """The values that the function ``name`` has ``returned``, if they are an output (or peak) and every state, each a value per neuron."""
        pair = returned if isinstance(returned, tuple | list) and len(returned) == 2 else (None, None)
        first, new = pair
        if not isinstance(new, self.neuron.named_states):
            raise trace.make_error(
                self.neuron, f"its {name} must return a pair: its output, and its states, as s.replace(v=...)"
            )
        nodes = []
        for what, x in zip(
            ("output", *(f"state {n!r}" for n in self.neuron.states)), (first, *new), strict=True
        ):
            if not isinstance(x, Node) or not x.lane:
                raise trace.make_error(
                    self.neuron,
                    f"its {what} is a number that depends on no current and no state; return 0.0 * v + number",
                )
            if x.op in trace.COMPARISONS:
                raise trace.make_error(
                    self.neuron, f"its {what} is a comparison; use ops.where(condition, 1.0, 0.0)"
                )
            nodes.append(x)
        return nodes[0], nodes[1:]

    def body(self, targets: Sequence[tuple[str, Expression]]) -> str:
        """Assignments of what the ``targets`` need, then the targets, in one order that reads before it writes."""
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
                lines.append(f"  const {kind} t{node.index} = {self.expression(node, names)};")
        lines += [f"  {target} {self.operand(x, names)};" for target, x in targets]
        return "".join(line + "\n" for line in lines)

    def expression(self, node: Node, names: dict[int, str]) -> str:
        """C of one ``node``, by the ``names`` of those before it."""
        if node.op == "input":
            return node.name
        args = [self.operand(x, names) for x in node.args]
        if node.op in INFIX:
            return f" {node.op} ".join(args)
        if node.op == "neg":
            return f"-{args[0]}"
        if node.op == "detach":
            return args[0]
        name = {"where": "select", "spike": "heaviside"}.get(node.op, node.op)
        return f"lane_{name}({', '.join(args)})"

    def operand(self, x: Expression, names: dict[int, str]) -> str:
        """C of an argument ``x``: one of the ``names``, a uniform, or a number rounded to float as torch rounds it."""
        if isinstance(x, Node) and x.lane:
            return names[x.index]
        if isinstance(x, Node):
            slot = next((i for i, known in enumerate(self.slots) if known is x), len(self.slots))
            self.slots[slot:] = self.slots[slot:] or [x]
            value = f"LANE(u[{slot}])"
            return f"({value} > 0.5f)" if x.op in trace.COMPARISONS else value
        try:
            return f"LANE({format_literal(x)})"
        except TraceError as error:
            raise trace.make_error(self.neuron, str(error)) from None


def format_literal(x: float) -> str:
    """A C float with exactly the value that x rounds to."""
    try:
        rounded = struct.unpack("f", struct.pack("f", x))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise TraceError(f"the number {x!r} in a step does not fit a float")
    return f"{rounded!r}f" if "e" in repr(rounded) or "." in repr(rounded) else f"{rounded!r}.0f"
