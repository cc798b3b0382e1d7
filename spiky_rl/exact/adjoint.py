"""AutoAdjoint: exact gradients of a spiking network in continuous time, for any neuron that is an ODE.

The adjoint lambda = dL/dx is integrated backwards in time between events and jumps at events. x are the states and currents, F is their
time derivative, R maps x before an event to x after it, g is the distance to the threshold, l the integrand of the loss, and t_k the time
of spike k. A subscript marks a derivative (F_x = dF/dx), ' a transposed Jacobian, . a scalar product, - a value before the event and + a
value after it:

    -dlambda/dt = F_x' lambda + l_x
    lambda- = R_x' lambda+ - g_x / (g_x F-) [ R_x' lambda+ . F- - lambda+ . F+ + l- - l+ + dL/dt_k ]

The bracket is the derivative of the loss with respect to the event's time. The time of an input spike does not depend on x, so its jump
has no second term, and the bracket without dL/dt_k is the gradient of the input's time. A weight raises a synaptic current at each spike;
its gradient is the sum over these spikes of the current's adjoint just after the spike. The gradient of a parameter p is the integral of
F_p' lambda over time, plus at each event the same two terms with R_p and g_p instead of R_x and g_x. All derivatives are traced from the
neuron's own flow, threshold and reset, so no code is needed per neuron. The gradient is valid as long as no spike appears or disappears.

Sources: sensitivities of hybrid systems, Galan, Feehery & Barton (1999); their automatic derivation, Nowotny & Knight (2025),
CNS*2025 P223; for leaky neurons this is EventProp, Wunderlich & Pehle (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import DOP853

from spiky_rl.config.options import shorten
from spiky_rl.config.registry import UserError
from spiky_rl.exact import solver
from spiky_rl.exact.solver import (
    ON_THRESHOLD,
    Event,
    EventSolver,
    Integrand,
    SpikeEvent,
    SpikingProblem,
    Trajectory,
)
from spiky_rl.exact.terms import Array, NeuronTerms
from spiky_rl.kernels import neuron_checks
from spiky_rl.neurons.base import Neuron, Ode

type Numbers = float | Sequence[float] | Array

MIN_SLOPE = 1e-6
"""Lower bound of the slope, per ms, at which the distance to the threshold crosses 0. Below it a spike only touches the threshold, and its
time has no derivative."""
MAX_SILENT_GRADIENT = 1e-9
"""Upper bound of the loss's derivative with respect to the time of a reset without a spike, relative to the largest adjoint. The solver
finds that time only up to its probe points, so a loss that depends on it is an error."""


@dataclass(frozen=True)
class AdjointGradients:
    """Gradients of a loss with respect to all inputs of a solution."""

    weights: Array
    """[N, inputs + N]."""
    input_times: tuple[Array, ...]
    """One array per input, in 1/ms."""
    parameters: Mapping[str, Array]
    """Gradients [N] by name; time constants are in ms. The gradient of a value that all neurons share is the sum over N."""
    tau_synapse: Array
    """[N], in 1/ms."""
    start: Array
    """[S, N]: gradients of the states at time 0."""
    segments: tuple[Trajectory, ...]
    """The adjoint lambda of states and currents [S + 1, N] between events, in order of time."""


@dataclass(frozen=True)
class Solution:
    """A solved network."""

    spikes: tuple[SpikeEvent, ...]
    """In order of time."""
    events: tuple[Event, ...]
    segments: tuple[Trajectory, ...]
    """States and currents [S + 1, N] between events: one segment before each event, and one after the last."""
    problem: SpikingProblem

    def times(self, neuron: int) -> Array:
        """Return the spike times of a neuron in ms."""
        return np.array([spike.time for spike in self.spikes if spike.neuron == neuron])

    def integral(self, integrand: Integrand) -> float:
        """Return the integral of ``integrand`` over the duration; see `Solution.gradient` for its arguments."""
        return solver.integrate(self.segments, integrand)

    def gradient(self, of_spikes: Numbers = 0.0, integrand: Integrand | None = None) -> AdjointGradients:
        """Return the gradients of a loss of spike times plus the integral of a function of the states.

        Args:
            of_spikes: dL/dt of every spike in ``spikes``, in 1/ms.
            integrand: (time in ms, one tensor [N] per state) -> a number or scalar tensor. It may jump in time, as a loss of a time window does;
                a window shorter than `solver.MAX_INTEGRAND_STEP_MS` may be missed.

        Raises:
            UserError: If sizes do not match; if a spike only touches the threshold, so that its time has no derivative; if the loss
                depends on the time of a reset without a spike; if the integrand's derivative is not finite.
        """
        time_gradients = solver.to_array("of_spikes", of_spikes, (len(self.spikes),))
        return _Backward(self, integrand).run(time_gradients)


def solve_network(
    neuron: Neuron,
    weights: Sequence[Sequence[float]] | Array,
    input_times: Sequence[Sequence[float] | Array],
    duration: float,
    tau_synapse: Numbers = 5.0,
    *,
    parameters: Mapping[str, Numbers] | None = None,
    readouts: Sequence[int] = (),
    start: Numbers | Sequence[Sequence[float]] = 0.0,
    tolerance: float = 1e-11,
    max_spikes: int = 10_000,
) -> Solution:
    """Solve a network of one kind of neuron from event to event.

    Args:
        neuron: A neuron of the class `Ode` (``registry.configure("neurons", {...}, "neuron").build()``).
        weights: [N, inputs + N]: the increase of each neuron's synaptic current by a spike of each input and then of each neuron.
        input_times: One sequence of spike times in ms per input.
        duration: Duration in ms.
        tau_synapse: Time constant of the synaptic currents in ms: one number, or [N].
        parameters: Values that replace the neuron's own: one number or [N] each; time constants in ms.
        readouts: Indices of neurons that never spike.
        start: States at time 0, [S, N]; 0 is rest.
        tolerance: Relative and absolute tolerance of the solver.
        max_spikes: Maximum number of spikes; more raise an error.

    Raises:
        UserError: If sizes or values do not match, the neuron is no `Ode` or steps otherwise, states grow without bound, or there are too many spikes.
    """
    if not isinstance(neuron, Ode):
        raise UserError(
            f"neuron: {type(neuron).__name__.removesuffix('Neuron')!r} is not an ODE with a threshold and a reset; see Ode in spiky_rl/neurons/base.py"
        )
    neuron_checks.check_ode_step(neuron)
    if not 0.0 <= duration < math.inf:
        raise UserError(f"duration: {duration!r} is out of range; allowed: 0 ms or more, and finite")
    if not 0.0 < tolerance < math.inf:
        raise UserError(f"tolerance: {tolerance!r} is out of range; allowed: above 0, and finite")
    width = _count("weights", weights)
    if not width:
        raise UserError("weights: no neuron given; allowed: a row for each of at least one neuron")
    _count("input_times", input_times)
    inputs = []
    for i, times in enumerate(input_times):
        name = f"input_times[{i}]"
        inputs.append(solver.to_array(name, times, (_count(name, times),)))
        for time in inputs[i]:
            if not 0.0 <= time <= duration:
                raise UserError(
                    f"{name}: {time!r} is out of range; allowed: 0 to the duration, {duration} ms"
                )
    _count("readouts", readouts)
    for n in readouts:
        is_index = isinstance(n, int | np.integer) and not isinstance(n, bool)  # a mask is no list of indices
        if not (is_index and 0 <= n < width):
            raise UserError(f"readouts: no neuron {n!r}; allowed: 0 to {width - 1}")
    taus = solver.to_array("tau_synapse", tau_synapse, (width,))
    if taus.min() <= 0.0:
        raise UserError(f"tau_synapse: {taus.min()!r} is out of range; allowed: above 0 ms")
    problem = SpikingProblem(
        NeuronTerms(neuron, solver.build_parameters(neuron, width, parameters or {})),
        solver.to_array("weights", weights, (width, len(inputs) + width)),
        tuple(inputs),
        float(duration),
        taus,
        ~np.isin(np.arange(width), readouts),
        tolerance,
    )
    states = solver.to_array("start", start, (len(neuron.states), width))
    forward = EventSolver(problem, np.concatenate([states, np.zeros((1, width))]), max_spikes)
    forward.run()
    return Solution(tuple(forward.spikes), tuple(forward.events), tuple(forward.segments), problem)


def _count(name: str, values: object) -> int:
    """Return the number of ``values``. Raises UserError with their ``name`` if they are no sequence."""
    try:
        return len(values)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(f"{name}: expected a sequence, got {shorten(values)}") from None


class _Backward:
    """One pass of the adjoint from the end to the beginning. A name ``of_x`` is the gradient of the loss with respect to x."""

    def __init__(self, solution: Solution, integrand: Integrand | None) -> None:
        self.solution, self.integrand, self.problem = solution, integrand, solution.problem
        problem, terms = self.problem, self.problem.terms
        width = len(problem.weights)
        self.adjoint = np.zeros((terms.count + 1, width))
        self.parameters = np.zeros_like(terms.parameters)
        self.taus = np.zeros(width)
        self.weights = np.zeros_like(problem.weights)
        self.inputs = tuple(np.zeros_like(times) for times in problem.inputs)
        self.segments: list[Trajectory] = []

    def run(self, of_spikes: Array) -> AdjointGradients:
        """Return all gradients; ``of_spikes`` is dL/dt of every spike, in 1/ms."""
        segments = list(self.solution.segments)
        self._integrate_adjoint(segments.pop())
        for event in reversed(self.solution.events):
            self._jump(event, of_spikes)
            self._integrate_adjoint(segments.pop())
        names = self.problem.terms.neuron.params
        return AdjointGradients(
            self.weights,
            self.inputs,
            dict(zip(names, self.parameters, strict=True)),
            self.taus,
            self.adjoint[:-1],
            tuple(reversed(self.segments)),
        )

    def _integrate_adjoint(self, forward: Trajectory) -> None:
        """Integrate the adjoint and the gradients of the parameters backwards through a ``forward`` segment."""
        segment = Trajectory(self.adjoint.shape)
        self.segments.append(segment)
        if not forward.pieces:
            return
        size, terms = self.adjoint.size, self.problem.terms
        # one vector: adjoint, gradients of the parameters, gradients of tau_synapse
        packed = np.concatenate([self.adjoint.ravel(), self.parameters.ravel(), self.taus])

        def slope(time: float, y: Array) -> Array:
            values, adjoint = forward(time), y[:size].reshape(self.adjoint.shape)
            of_current, of_states, of_parameters = terms.flow_transposed(
                values[-1], values[:-1], adjoint[:-1]
            )
            # the synaptic current's own equation, dI/dt = -I / tau_synapse
            through_decay = -adjoint[-1] / self.problem.tau_synapse
            of_taus = -through_decay * values[-1] / self.problem.tau_synapse
            of_states = of_states + self._integrand(time, values)[1]
            return -np.concatenate(
                [of_states.ravel(), of_current + through_decay, of_parameters.ravel(), of_taus]
            )

        begin, end = forward.pieces[0][0], forward.pieces[-1][1]
        # a loss may have any scale, and the adjoint is linear in the loss
        scales, max_step = [np.abs(packed).max()], np.inf
        if self.integrand is not None:
            # steps that grow while the adjoint is 0 must not jump over a time window of the loss
            max_step = solver.MAX_INTEGRAND_STEP_MS
            scales += [
                max_step * np.abs(self._integrand(time, forward(time))[1]).max()
                for time in solver.divide(begin, end).tolist()
            ]
        with np.errstate(all="ignore"):
            stepper = DOP853(
                slope,
                end,
                packed,
                begin,
                max_step=max_step,
                rtol=self.problem.tolerance,
                atol=self.problem.tolerance * (max(scales) or 1.0),
            )
        pieces = []
        while stepper.status == "running":
            with np.errstate(all="ignore"):
                message = stepper.step()
            if stepper.status == "failed":
                raise UserError(
                    f"the adjoint cannot be solved before {stepper.t:.6g} ms: {message}"
                    " (is the derivative of the integrand finite?)"
                )
            dense = stepper.dense_output()
            pieces.append((stepper.t, stepper.t_old, lambda t, dense=dense: dense(t)[:size]))
        segment.pieces = pieces[::-1]
        self.adjoint = stepper.y[:size].reshape(self.adjoint.shape)
        self.parameters = stepper.y[size : size + self.parameters.size].reshape(self.parameters.shape)
        self.taus = stepper.y[size + self.parameters.size :]

    def _integrand(self, time: float, values: Array) -> tuple[float, Array]:
        """Return the integrand and its derivatives [S, N] with respect to the states."""
        if self.integrand is None:
            return 0.0, np.zeros_like(values[:-1])
        states = torch.tensor(values[:-1], requires_grad=True)
        with torch.enable_grad():
            value = torch.as_tensor(self.integrand(time, *states), dtype=torch.float64)
        if not value.requires_grad:  # a constant, as outside of the time window of a loss
            return value.item(), np.zeros_like(values[:-1])
        (gradient,) = torch.autograd.grad(value, states)
        return value.item(), gradient.numpy()

    def _jump(self, event: Event, of_spikes: Array) -> None:
        """Take the adjoint from after an event to before it, and add the event's gradients."""
        problem, after = self.problem, self.adjoint
        before, of_parameters = after.copy(), np.zeros_like(self.parameters)
        if event.kind != "input":
            # the reset is computed for all neurons; a spike resets only its own
            reset = slice(None) if event.kind == "silent" else [event.source]
            reset_states, reset_parameters = problem.terms.reset_transposed(
                event.before[:-1], after[:-1], float(event.kind == "spike")
            )
            before[:-1, reset] = reset_states[:, reset]
            of_parameters[:, reset] = reset_parameters[:, reset]
        # the bracket without dL/dt_k; ``event`` holds states and currents, ``before`` and ``after`` the adjoint
        of_time = (before * problem.slope(event.before)).sum() - (after * problem.slope(event.after)).sum()
        of_time += self._integrand(event.time, event.before)[0] - self._integrand(event.time, event.after)[0]
        if event.kind == "input":
            self.inputs[event.source][event.number] = of_time
            self.weights[:, event.source] += after[-1]
        elif event.kind == "spike":
            n = event.source
            # a neuron that starts above its threshold spikes at time 0, whatever its states
            if event.time > 0.0 or problem.distance(event.before)[n] <= ON_THRESHOLD:
                self._add_gradient_of_time(event, of_time + of_spikes[event.number], before, of_parameters)
            self.weights[:, len(problem.inputs) + n] += after[-1]
        elif abs(of_time) > MAX_SILENT_GRADIENT * np.abs(after).max():
            raise UserError(
                f"the loss depends on the time of a reset without a spike at {event.time:.6g} ms, which has no derivative;"
                " move the change from reset to flow"
            )
        self.adjoint, self.parameters = before, self.parameters + of_parameters

    def _add_gradient_of_time(
        self, event: Event, of_time: float, before: Array, of_parameters: Array
    ) -> None:
        """Add the gradient through the time of a spike to the adjoint ``before`` it and to ``of_parameters``; ``of_time`` is the bracket."""
        n, states = event.source, event.before[:-1]
        distance_by_states, distance_by_parameters = self.problem.terms.threshold_gradient(states)
        speed = distance_by_states[:, n] @ self.problem.slope(event.before)[:-1, n]
        if speed < MIN_SLOPE:
            raise UserError(
                f"neuron {n} only touches its threshold at {event.time:.6g} ms, rising by {speed:.3g} per ms: its time has no derivative"
            )
        # if the distance to the threshold rises by 1, the spike comes earlier by 1 / speed
        of_distance = -of_time / speed
        before[:-1, n] += distance_by_states[:, n] * of_distance
        of_parameters[:, n] += distance_by_parameters[:, n] * of_distance
