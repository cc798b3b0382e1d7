"""Checks that a neuron keeps the contract of `spiky_rl.neurons.base`. They run when an agent names the neuron, before training."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spiky_rl.config import registry
from spiky_rl.kernels import emit, trace
from spiky_rl.kernels.ops import SPIKELESS, TorchOps, get_reference_step
from spiky_rl.neurons.base import BELOW_ANY, Neuron, Ode, Ops, Params, States, Value
from spiky_rl.surrogates.base import Surrogate

REST_TOLERANCE = 1e-6
"""Largest state after one step from rest without input, in the neuron's units; not 0 because of rounding."""
ARGUMENTS = {
    "step": ("ops", "current", "s", "p"),
    "advance": ("ops", "current", "peak", "s", "p"),
    "emit": ("ops", "peak", "s", "p"),
    "flow": ("ops", "current", "s", "p"),
    "integrate": ("ops", "current", "s", "p"),
    "threshold": ("ops", "s", "p"),
    "distance": ("ops", "s", "p"),
    "reset": ("ops", "spike", "s", "p"),
}
"""Arguments of a neuron's functions; the last two, states and parameters, hold named values."""
SAMPLES, STEPS = 64, 8
"""Number of sampled neurons, and of steps that bring them to the states at which `integrate` is compared with `flow`."""
TIME_STEP_FACTORS = (1e-4, 1e-5)
"""Coarse and fine time step of the comparison, in units of the neuron's own time step."""
FLOW_TOLERANCE, MAX_WRONG_SHARE = 1e-3, 0.1
"""Largest difference between `integrate` and `flow`, relative to the rate, and the share of samples that may exceed it, because samples
at a kink of the equation do."""
MIN_RATE = 1e-300
"""Lower bound of the rate by which a difference is divided, so that two rates of 0 agree."""
ROUNDING_TOLERANCE = 1e-14
"""Relative rounding error of the difference of two states."""
_PASSED: set[tuple[type, str]] = set()
"""Neurons, with their options, that passed `_check_samples`."""


def check_neuron(neuron: Neuron, surrogate: Surrogate) -> None:
    """Raise `TraceError` that names the ``neuron`` and its fault. ``surrogate`` is the surrogate of its spikes.

    A neuron must have

    - a docstring with an equation, and a unit for each parameter;
    - functions that take states and parameters by name;
    - a step within the op vocabulary that returns an output and every state;
    - silence at rest: without input, its own ``constant_inputs`` included, the zero state is a fixed point, because episodes begin there;
    - outputs of 0 and 1 unless it is graded, because kernels keep a spike as one bit;
    - an `integrate` that follows `flow`, if it defines both;
    - the step of `Ode`, if a wrapper of a learning rule makes another step from its `integrate`, `threshold` and `reset`.
    """
    _check_text(neuron.source_neuron)
    _check_arguments(neuron.source_neuron)
    for varying in (False, True):  # all parameters shared by the neurons, or none
        emit.build_program(neuron, surrogate, (varying,) * len(neuron.params))
    _check_rest(neuron, surrogate)
    _check_samples(neuron.source_neuron, TorchOps(surrogate))
    if neuron.source_neuron is not neuron:
        check_ode_step(neuron.source_neuron)


def check_ode_step(neuron: Neuron) -> None:
    """Raise `TraceError` if an `Ode` has a step of its own whose values differ from those of `Ode` at sampled currents.

    Wrappers and exact solvers run `integrate`, `threshold` and `reset` instead of the step, so they would run another neuron.
    """
    if not isinstance(neuron, Ode):
        return

    def step(ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        peak: Value = BELOW_ANY
        for _ in range(neuron.substeps):
            peak, s = Ode.substep(neuron, ops, current, peak, s, p)
        return Ode.finish_step(neuron, ops, peak, s, p)

    _, outputs, states = _run_samples(neuron, SPIKELESS, neuron.step)
    _, ode_outputs, ode_states = _run_samples(neuron, SPIKELESS, step)
    pairs = zip((outputs, *states), (ode_outputs, *ode_states), strict=True)
    if not all(torch.allclose(own, ode, equal_nan=True) for own, ode in pairs):
        raise trace.make_error(
            neuron,
            "its step differs from its integrate, threshold and reset, which this learning rule or solver runs instead; write the"
            " difference into them",
        )


def check_surrogate(surrogate: Surrogate) -> None:
    """Raise `TraceError` that names the ``surrogate`` if its derivative uses an operation outside the op vocabulary, or a slope of its own.

    Kernels get the slope as an argument, and surrogates that differ in the slope alone share a kernel.
    """
    if _describe_derivative(surrogate) != _describe_derivative(_double_slope(surrogate)):
        raise trace.make_error(
            surrogate, "its derivative depends on the option slope; it must use the argument slope instead"
        )


def _double_slope(surrogate: Surrogate) -> Surrogate:
    """Return the ``surrogate`` with twice the slope, which may be out of the option's range."""
    options = surrogate.Options.model_construct(**surrogate.chosen, slope=2.0 * surrogate.slope)
    return type(surrogate)(options)


def _describe_derivative(surrogate: Surrogate) -> str:
    """Return a text that is the same for surrogates with equal derivatives only."""
    graph = trace.TraceGraph()
    gradient, x, slope = graph.input("gradient"), graph.input("x"), graph.input("slope", False)
    derivative = trace.call_function(surrogate, surrogate.derivative, trace.TraceOps(graph), x, slope)
    return trace.describe([graph.make("*", gradient, derivative)])


def _check_text(neuron: Neuron) -> None:
    cls = type(neuron)
    module = sys.modules.get(cls.__module__)
    text = f"{vars(cls).get('__doc__') or ''}{getattr(module, '__doc__', None) or ''}"
    if sys.flags.optimize < 2 and not any(sign in text for sign in ("=", "<-")):
        lack = "its docstring holds no equation" if text.strip() else "it has no docstring"
        raise trace.make_error(neuron, f"{lack}; write its equations, units and source there")
    for name, param in neuron.params.items():
        if not param.unit:
            raise trace.make_error(
                neuron, f"its parameter {name!r} has no unit; give unit='ms', or unit='1' for a pure number"
            )


def _check_arguments(neuron: Neuron) -> None:
    """Raise `TraceError` with the expected arguments if a function does not take states and parameters by name."""
    for function, expected in ARGUMENTS.items():
        if not hasattr(neuron, function):
            continue
        signature = inspect.signature(getattr(neuron, function))
        taken = [q.name for q in signature.parameters.values() if q.kind is not q.VAR_POSITIONAL]
        last = zip(taken[len(expected) - 2 :], expected[-2:], strict=False)
        try:
            signature.bind(*expected)
            fits = all(name.strip("_") in ("", allowed) for name, allowed in last)
        except TypeError:
            fits = False
        if not fits:
            given = ", ".join(
                str(q).partition(":")[0].partition("=")[0] for q in signature.parameters.values()
            )
            names = [f"s.{name}" for name in neuron.states]
            params = neuron.named_times if function == "flow" else neuron.named_params
            names += [f"p.{name}" for name in params._fields]
            raise trace.make_error(
                neuron,
                f"its {function} takes ({given}), and must take ({', '.join(expected)}): its states and parameters come by name,"
                f" {', '.join(names)}{_locate(neuron, function)}",
            )


def _locate(neuron: Neuron, function: str) -> str:
    """Return the place of a function for a message: file and line if it is the neuron's own, else the neuron's file."""
    own = next(iter(trace.find_source_files(neuron)), None)
    if own is None:
        return ""
    code = getattr(inspect.unwrap(getattr(type(neuron), function)), "__code__", None)
    line = f":{code.co_firstlineno}" if code is not None and code.co_filename == own else ""
    return f" (see {Path(own).name}{line})"


def _check_rest(neuron: Neuron, surrogate: Surrogate) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    inputs = neuron.source_neuron.constant_inputs
    values = (0.0 if name in inputs else neuron.get_step_value(name) for name in neuron.params)
    params = neuron.named_params(*values)
    rest = neuron.named_states(*(zero for _ in neuron.states))
    output, states = trace.call_function(
        neuron, get_reference_step(neuron), TorchOps(surrogate), zero, rest, params
    )
    for name, value in zip(neuron.states, states, strict=True):
        if not abs(float(value)) < REST_TOLERANCE:
            raise trace.make_error(
                neuron,
                f"its state {name!r} is {float(value):g} after one step from rest without input; rest must be 0, so store it "
                "relative to its resting value",
            )
    if float(output) != 0.0:
        raise trace.make_error(
            neuron, f"its output at rest and without input is {float(output):g}; it must be 0"
        )


def _check_samples(neuron: Neuron, ops: TorchOps) -> None:
    """Check output and flow at sampled currents and states; a neuron with the same options is checked only once."""
    if (key := (type(neuron), repr(neuron.chosen))) in _PASSED:
        return
    current, outputs, states = _run_samples(neuron, ops, neuron.step)
    if not neuron.graded:
        _check_output(neuron, outputs)
    if isinstance(neuron, Ode) and type(neuron).flow is not Ode.flow:
        _check_flow(neuron, ops, current, states)
    _PASSED.add(key)


def _check_output(neuron: Neuron, outputs: Tensor) -> None:
    """Raise `TraceError` if ``outputs`` has a number other than 0 and 1."""
    others = outputs[(outputs != 0.0) & (outputs != 1.0)]
    if others.numel():
        raise trace.make_error(
            neuron,
            f"its output is {others[0]:g} in a step; it must be 0 or 1, unless the neuron declares graded = True",
        )


def _check_flow(neuron: Ode, ops: TorchOps, current: Tensor, states: Sequence[Tensor]) -> None:
    """Raise `TraceError` if, over a fine time step from ``states``, `integrate` does not follow `flow`."""
    coarse, fine = (_compare_with_flow(neuron, ops, current, states, step) for step in TIME_STEP_FACTORS)
    below = coarse.below & fine.below
    for i, name in enumerate(neuron.states):
        rate, error = fine.rates[i], fine.errors[i]
        known = below & rate.isfinite()
        # an error above the tolerance is allowed if it shrinks with the time step; near a large state, rounding adds to it
        allowed = FLOW_TOLERANCE + ROUNDING_TOLERANCE / fine.h * states[i].abs() / fine.sizes[i]
        wrong = known & ~((error <= allowed) | (error <= 0.5 * coarse.errors[i]))
        if wrong.sum() > MAX_WRONG_SHARE * known.sum():
            worst = (error * wrong).nan_to_num(torch.inf).argmax()
            at = ", ".join(f"{n} = {x[worst]:.3g}" for n, x in zip(neuron.states, states, strict=True))
            raise trace.make_error(
                neuron,
                f"its integrate does not follow its flow: with {at} and a current of {current[worst]:.3g} the state {name!r}"
                f" changes by {rate[worst]:.4g} per ms, but flow gives {fine.flow[i][worst]:.4g}; correct integrate or flow, or"
                f" remove flow{_locate(neuron, 'integrate')}",
            )


class _FlowComparison(NamedTuple):
    """Rates of change of `integrate` and of `flow`, [samples] for each state."""

    h: float
    """Duration of a sub-step in ms."""
    rates: list[Tensor]
    """Change per ms by `integrate`."""
    flow: list[Tensor]
    sizes: list[Tensor]
    """The larger absolute value of the two."""
    errors: list[Tensor]
    """Difference of the two, relative to ``sizes``."""
    below: Tensor
    """Whether a sample is below its threshold before and after the sub-step; above it, `integrate` may differ from `flow`."""


def _compare_with_flow(
    neuron: Ode, ops: TorchOps, current: Tensor, states: Sequence[Tensor], step: float
) -> _FlowComparison:
    """Compare `integrate` with `flow` over one sub-step, at ``step`` times the neuron's time step."""
    named, times = neuron.named_states, neuron.named_times(*(neuron.chosen[name] for name in neuron.params))
    finer = type(neuron)(neuron.options.model_copy(update={"dt": step * neuron.dt}))
    h, numbers = finer.dt / finer.substeps, neuron.named_params(*map(finer.get_step_value, neuron.params))
    flow = trace.call_function(neuron, finer.flow, ops, current, named(*states), times)
    after = trace.call_function(neuron, finer.integrate, ops, current, named(*states), numbers)
    for function, values, form in (("flow", flow, "rates"), ("integrate", after, "replace")):
        if not isinstance(values, named):
            raise trace.make_error(neuron, f"its {function} must return its states, as s.{form}(v=...)")
    flow, after = (
        [torch.as_tensor(x, dtype=current.dtype).expand_as(current) for x in values]
        for values in (flow, after)
    )
    rates = [(new - old) / h for new, old in zip(after, states, strict=True)]
    sizes = [
        torch.maximum(rate.abs(), expected.abs()).clamp_min(MIN_RATE)
        for rate, expected in zip(rates, flow, strict=True)
    ]
    errors = [(rate - x).abs() / size for rate, x, size in zip(rates, flow, sizes, strict=True)]
    below = torch.ones(SAMPLES, dtype=torch.bool)
    for values in (states, after):
        distance = trace.call_function(neuron, finer.threshold, ops, named(*values), numbers)
        below &= torch.as_tensor(distance) < 0.0
    return _FlowComparison(h, rates, flow, sizes, errors, below)


def _run_samples(
    neuron: Neuron, ops: TorchOps, step: Callable[..., Any]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Call ``step`` `STEPS` times with currents of various sizes; return the currents, all outputs, and the last states."""
    generator = torch.Generator().manual_seed(0)
    size, sign = torch.rand(2, SAMPLES, generator=generator, dtype=torch.float64)
    current = 10.0 ** (3.0 * size - 1.0) * torch.where(sign < 0.3, -1.0, 1.0)
    states = (torch.zeros_like(current),) * len(neuron.states)
    numbers = neuron.named_params(*map(neuron.get_step_value, neuron.params))
    outputs = []
    for _ in range(STEPS):
        named = neuron.named_states(*states)
        output, states = trace.call_function(neuron, step, ops, current, named, numbers)
        outputs.append(output)
    return current, torch.stack(outputs), states


def get_generated_source(name: str) -> str:
    """Return the C text of the step and adjoint of the neuron ``name``, with its default options and the arctangent surrogate."""
    neuron = registry.configure("neurons", name, name).build()
    surrogate = registry.configure("surrogates", "arctangent", "surrogate").build()
    check_neuron(neuron, surrogate)
    program = emit.build_program(neuron, surrogate, (False,) * len(neuron.params))
    numbers = f"// u: numbers computed on the host from {', '.join(program.names)} and the surrogate's slope"
    return f"{numbers}\n{program.text.rstrip()}"
