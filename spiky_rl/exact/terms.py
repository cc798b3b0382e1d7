"""Flow, threshold and reset of a neuron as functions of NumPy arrays, with vector-Jacobian products, for the event-based solver.

The tracer records each function once and derives its vector-Jacobian product, so a neuron needs no further equations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spiky_rl.config import registry
from spiky_rl.kernels import trace
from spiky_rl.kernels.trace import Node, TraceGraph, TraceOps
from spiky_rl.neurons.base import Ode, Ops, Params, States, Value, is_time_constant

Array = np.ndarray

ARRAYS: Mapping[str, Callable[..., Any]] = {
    **trace.NUMBERS,
    **{name: getattr(np, name) for name in trace.FUNCTIONS},
    "max": np.maximum,
    "min": np.minimum,
    "where": np.where,
    "heaviside": lambda x: np.asarray(x >= 0, float),
}
"""NumPy function of every operation that a neuron may use."""


class ArrayProgram:
    """Expressions of a graph as a list of array operations."""

    def __init__(self, inputs: Sequence[Node], outputs: Sequence[Value]) -> None:
        self.slots: list[Any] = [None] * len(inputs)
        """Values of a call: the inputs, then constants and results; None for a value that the call fills in."""
        self.slot_of_node = {node.index: slot for slot, node in enumerate(inputs)}
        self.steps: list[tuple[int, Callable[..., Any], list[int]]] = []
        """Slot of the result, function, and slots of the arguments of each operation, in order."""
        self.outputs = [self._add(x) for x in outputs]

    def _add(self, x: Value) -> int:
        """Add the steps that compute an expression, unless they exist; return the slot of its value."""
        if not isinstance(x, Node):
            self.slots.append(x)
            return len(self.slots) - 1
        if x.index not in self.slot_of_node:
            args = [self._add(a) for a in x.args]
            self.slots.append(None)
            slot = len(self.slots) - 1
            self.slot_of_node[x.index] = slot
            self.steps.append((slot, ARRAYS[x.op], args))
        return self.slot_of_node[x.index]

    def __call__(self, *inputs: Array) -> Array:
        """Return the outputs, [outputs, ..., N]; the inputs broadcast to the first input's shape, [..., N]."""
        slots = [*inputs, *self.slots[len(inputs) :]]
        for slot, function, args in self.steps:
            slots[slot] = function(*[slots[i] for i in args])
        values = np.empty((len(self.outputs), *inputs[0].shape))
        for row, i in enumerate(self.outputs):
            values[row] = slots[i]
        return values


class NeuronTerms:
    """Flow, threshold and reset of a neuron with given parameters, and their vector-Jacobian products (``..._transposed``).

    States are [S, ..., N]. Parameters are [P, N] in the neuron's order and units, with time constants in ms.

    Raises:
        TraceError: If the neuron uses an operation that is not part of `Ops`.
    """

    def __init__(self, neuron: Ode, parameters: Array) -> None:
        self.neuron, self.parameters, self.count = neuron, parameters, len(neuron.states)
        self._flow = _build_programs(
            neuron, lambda ops, current, states, times, _: neuron.flow(ops, current, states, times)
        )
        self._threshold = _build_programs(
            neuron, lambda ops, _, states, __, params: (neuron.distance(ops, states, params),)
        )
        self._reset = {
            spike: _build_programs(
                neuron,
                lambda ops, _, states, __, params, spike=spike: neuron.reset(ops, spike, states, params),
            )
            for spike in (0.0, 1.0)
        }

    def flow(self, current: Array, states: Array) -> Array:
        """Return d state / dt per ms, [S, ..., N], for ``current`` [..., N] and ``states`` [S, ..., N]."""
        return self._flow[0](current, *states, *self.parameters)

    def flow_transposed(self, current: Array, states: Array, adjoint: Array) -> tuple[Array, Array, Array]:
        """Return the products of the flow's transposed Jacobians (by current, states, parameters) with an ``adjoint`` [S, N]."""
        return self._split(self._flow[1](current, *states, *self.parameters, *adjoint))

    def threshold(self, states: Array) -> Array:
        """Return the distance to the threshold, [..., N], of ``states`` [S, ..., N]."""
        # the first input is a current, which threshold and reset do not read; it gives the shape
        return self._threshold[0](states[0], *states, *self.parameters)[0]

    def threshold_gradient(self, states: Array) -> tuple[Array, Array]:
        """Return the derivatives of the distance with respect to ``states`` [S, N] and parameters [P, N]."""
        one = np.ones_like(states[0])
        return self._split(self._threshold[1](one, *states, *self.parameters, one))[1:]

    def reset(self, states: Array, spike: float = 1.0) -> Array:
        """Return the ``states`` after a reset with a ``spike`` of 1 or 0."""
        return self._reset[spike][0](states[0], *states, *self.parameters)

    def reset_transposed(self, states: Array, adjoint: Array, spike: float = 1.0) -> tuple[Array, Array]:
        """Return the products of the reset's transposed Jacobians (by states, parameters) with an ``adjoint`` [S, N]."""
        return self._split(self._reset[spike][1](states[0], *states, *self.parameters, *adjoint))[1:]

    def _split(self, values: Array) -> tuple[Array, Array, Array]:
        """Split a vector-Jacobian product into the parts of current, states and parameters."""
        return values[0], values[1 : 1 + self.count], values[1 + self.count :]


Definition = Callable[[Ops, Value, States, Params, Params], Sequence[Value]]


def _build_programs(neuron: Ode, definition: Definition) -> tuple[ArrayProgram, ArrayProgram]:
    """Return programs for a function of the neuron and for its vector-Jacobian product.

    Both take current, states and parameters; the second also takes the adjoint of every output.
    """
    graph = TraceGraph()
    current = graph.input("current")
    states = [graph.input(f"state {name}") for name in neuron.states]
    params = [graph.input(f"parameter {name}") for name in neuron.params]
    # flow takes time constants in ms (``params``); threshold and reset take them as decays
    step_params = [
        graph.make("exp", -neuron.dt / node) if is_time_constant(param) else node
        for node, param in zip(params, neuron.params.values(), strict=True)
    ]
    outputs = trace.call_function(
        neuron,
        definition,
        TraceOps(graph),
        current,
        neuron.named_states(*states),
        neuron.named_times(*params),
        neuron.named_params(*step_params),
    )
    seeds = [graph.input(f"adjoint {i}") for i in range(len(outputs))]
    inputs = [current, *states, *params]
    # any surrogate will do: flow, threshold and reset contain no `Ops.spike`
    surrogate = registry.configure("surrogates", "arctangent", "surrogate").build()
    transposed = trace.differentiate(graph, surrogate, 1.0, zip(outputs, seeds, strict=True), inputs)
    return ArrayProgram(inputs, outputs), ArrayProgram([*inputs, *seeds], transposed)
