"""Whether a neuron keeps the contract of `spiky_rl.neurons.base`: asked where an agent names one, before anything runs."""

from __future__ import annotations

import sys

import torch

from spiky_rl.kernels import emit, trace
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron, Param
from spiky_rl.surrogates.base import Surrogate

REST = 1e-6
"""How far from zero a state may be after one step from rest without input: rounding, in any neuron's units."""


def check(neuron: Neuron, surrogate: Surrogate) -> None:
    """Raise `TraceError` that names the neuron and says what it lacks.

    A text and the units of its parameters; a step within the op vocabulary that returns an output and every state; silence
    at rest: zero for every state is a fixed point without input, because episodes begin there.
    """
    _check_text(neuron)
    for varying in (False, True):
        emit.program(neuron, surrogate, (varying,) * len(neuron.params))
    _check_rest(neuron, surrogate)


def check_surrogate(surrogate: Surrogate) -> None:
    """Raise `TraceError` that names the surrogate if its derivative leaves the op vocabulary."""
    graph = trace.Graph()
    x, slope = graph.input("x"), graph.input("slope", False)
    trace.call(surrogate, surrogate.derivative, trace.TraceOps(graph), x, slope)


def _check_text(neuron: Neuron) -> None:
    cls = type(neuron)
    module = sys.modules.get(cls.__module__)
    if not (vars(cls).get("__doc__") or getattr(module, "__doc__", None)):
        raise trace.error(neuron, "it has no docstring; say its equations, its units and its source")
    for name, param in neuron.params.items():
        if not isinstance(param, Param):
            raise trace.error(
                neuron, f"params[{name!r}] is {param!r}; declare it as Param(default, meaning, unit=...)"
            )
        if not param.unit:
            raise trace.error(
                neuron, f"its parameter {name!r} has no unit; say unit='ms', or unit='1' for a pure number"
            )
        if name not in neuron.options:
            raise trace.error(
                neuron, f"its parameter {name!r} is missing in its options; write options = {{**params, ...}}"
            )


def _check_rest(neuron: Neuron, surrogate: Surrogate) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    params = [neuron.number(name) for name in neuron.params]
    rest = (zero for _ in neuron.states)
    output, states = trace.call(neuron, neuron.step, TorchOps(surrogate), zero, *rest, *params)
    for name, value in zip(neuron.states, states, strict=True):
        if not abs(float(value)) < REST:
            raise trace.error(
                neuron,
                f"its state {name!r} is {float(value):g} after one step from rest without input; rest must be 0, so store it "
                "relative to its resting value",
            )
    if float(output) != 0.0:
        raise trace.error(neuron, f"its output at rest and without input is {float(output):g}; it must be 0")
