"""AutoAdjoint: exact gradients of a spiking network in continuous time, for any neuron that is an ODE.

The adjoint lambda = dL/dx runs backwards between events, and jumps at them. With F the vector field of states and currents x, R
the map of an event, g the threshold and l the integrand of a loss (- before the event, + after it):

    -dlambda/dt = F_x' lambda + l_x
    lambda- = R_x' lambda+ - g_x / (g_x F-) [ R_x' lambda+ . F- - lambda+ . F+ + l- - l+ + dL/dt_k ]

An input's spike, whose time is given, has no second term: the bracket is the derivative by that time. Weights collect the adjoint
of the current that they raise; parameters p collect F_p' lambda over time, and R_p and g_p at events in place of R_x and g_x.
All derivatives are traced from the neuron's own flow, threshold and reset; nothing is written per neuron. The gradient is
that of the loss while no spike appears or disappears.

Sources: sensitivities of hybrid systems, Galan, Feehery & Barton (1999); deriving them by program, Nowotny & Knight (2025),
CNS*2025 P223; for leaky neurons this is EventProp, Wunderlich & Pehle (2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import DOP853

from spiky_rl.config.registry import UserError
from spiky_rl.exact import solver
from spiky_rl.exact.solver import Event, EventSolver, Integrand, SpikeEvent, SpikingProblem, Trajectory
from spiky_rl.exact.terms import Array, NeuronTerms
from spiky_rl.neurons.base import Neuron, Ode

type Numbers = float | Sequence[float] | Array

SMALLEST_SLOPE = 1e-6
"""Distance to threshold per ms below which a spike counts as a touch: its time, known to 1e-5 ms at best, has no derivative."""
SILENT = 1e-9
"""What a reset without a spike may change in the loss by its moment, relative to the adjoint, until it is refused."""


@dataclass(frozen=True)
class AdjointGradients:
    """dL/d everything that went into a solution."""

    weights: Array
    """[N, inputs + N]."""
    input_times: tuple[Array, ...]
    """One array per input, 1/ms."""
    parameters: Mapping[str, Array]
    """[N] each; time constants in ms. The gradient of a number that all neurons share is the sum."""
    tau_synapse: Array
    """[N], 1/ms."""
    start: Array
    """[S, N]: of the states at time 0."""
    segments: tuple[Trajectory, ...]
    """lambda of states and currents [S + 1, N] between events, in order of time."""


@dataclass(frozen=True)
class Solution:
    """A solved network."""

    spikes: tuple[SpikeEvent, ...]
    """In order of time."""
    events: tuple[Event, ...]
    segments: tuple[Trajectory, ...]
    """States and currents [S + 1, N] between events: one before each event, one behind the last."""
    problem: SpikingProblem

    def times(self, neuron: int) -> Array:
        """Spike times of a neuron in ms."""
        return np.array([spike.time for spike in self.spikes if spike.neuron == neuron])

    def integral(self, integrand: Integrand) -> float:
        """The integral of the ``integrand``, a function of time and states, from 0 to the end. See `Solution.gradient`."""
        return solver.integrate(self.segments, integrand)

    def gradient(self, of_spikes: Numbers = 0.0, integrand: Integrand | None = None) -> AdjointGradients:
        """Gradients of a loss of spike times plus the integral of a function of the states.

        Args:
            of_spikes: dL/dt of every spike in ``spikes``, in 1/ms.
            integrand: (time in ms, a tensor [N] of every state) -> a scalar tensor.

        Raises:
            UserError: Sizes that do not fit; a spike that only touches the threshold, so that its time has no derivative; a
                neuron that changes without a spike at a moment that the loss depends on.
        """
        rates = solver.to_array("of_spikes", of_spikes, (len(self.spikes),))
        return _Backward(self, integrand).run(rates)


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
        neuron: An ODE, built (``registry.configure("neurons", {...}, "neuron").build()``).
        weights: [N, inputs + N]: what a spike of an input, then of a neuron, adds to the synaptic current of each neuron.
        input_times: One sequence of spike times in ms per input.
        duration: In ms.
        tau_synapse: Time constant of the synaptic currents in ms: one number, or [N].
        parameters: In place of the neuron's own: one number, or [N]; time constants in ms.
        readouts: Neurons that never spike.
        start: States at time 0, [S, N]; 0 is rest.
        tolerance: Relative and absolute, of the solver.
        max_spikes: More of them are an error.

    Raises:
        UserError: Sizes or values that do not fit, a neuron that is no ODE, states that grow without bound, spikes without end.
    """
    if not isinstance(neuron, Ode):
        raise UserError(
            f"neuron: {type(neuron).__name__.removesuffix('Neuron')!r} is no ODE with a threshold and a reset; see Ode in spiky_rl/neurons/base.py"
        )
    width = len(weights)
    inputs = tuple(solver.to_array(f"input_times[{i}]", t, (len(t),)) for i, t in enumerate(input_times))
    for i, times in enumerate(inputs):
        for time in times:
            if not 0.0 <= time <= duration:
                raise UserError(
                    f"input_times[{i}]: {time!r} is out of range; it must be between 0 and the duration, {duration} ms"
                )
    for n in readouts:
        if not 0 <= n < width:
            raise UserError(f"readouts: there is no neuron {n!r}; there are {width}, counted from 0")
    taus = solver.to_array("tau_synapse", tau_synapse, (width,))
    if taus.min() <= 0.0:
        raise UserError(f"tau_synapse: {taus.min()!r} is out of range; it must be above 0 ms")
    problem = SpikingProblem(
        NeuronTerms(neuron, solver.parameters_of(neuron, width, parameters or {})),
        solver.to_array("weights", weights, (width, len(inputs) + width)),
        inputs,
        float(duration),
        taus,
        ~np.isin(np.arange(width), readouts),
        tolerance,
    )
    states = solver.to_array("start", start, (len(neuron.states), width))
    forward = EventSolver(problem, np.concatenate([states, np.zeros((1, width))]), max_spikes)
    forward.run()
    return Solution(tuple(forward.spikes), tuple(forward.events), tuple(forward.segments), problem)


class _Backward:
    """One pass of the adjoint from the end to the beginning."""

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
        """dL/d everything, given dL/dt of every spike, ``of_spikes`` in 1/ms."""
        parts = list(self.solution.segments)
        self._integrate_adjoint(parts.pop())
        for event in reversed(self.solution.events):
            self._jump(event, of_spikes)
            self._integrate_adjoint(parts.pop())
        names = self.problem.terms.neuron.params
        return AdjointGradients(
            self.weights,
            self.inputs,
            dict(zip(names, self.parameters, strict=True)),
            self.taus,
            self.adjoint[:-1],
            tuple(reversed(self.segments)),
        )

    def _integrate_adjoint(self, part: Trajectory) -> None:
        """Through a segment: the adjoint, and beside it what parameters collect over time."""
        segment = Trajectory(self.adjoint.shape)
        self.segments.append(segment)
        if not part.pieces:
            return
        size, terms = self.adjoint.size, self.problem.terms
        packed = np.concatenate([self.adjoint.ravel(), self.parameters.ravel(), self.taus])

        def slope(time: float, y: Array) -> Array:
            values, adjoint = part(time), y[:size].reshape(self.adjoint.shape)
            to_current, to_states, to_parameters = terms.flow_transposed(
                values[-1], values[:-1], adjoint[:-1]
            )
            by_current = -adjoint[-1] / self.problem.tau_synapse
            to_taus = -by_current * values[-1] / self.problem.tau_synapse
            to_states = to_states + self._integrand(time, values)[1]
            return -np.concatenate(
                [to_states.ravel(), to_current + by_current, to_parameters.ravel(), to_taus]
            )

        begin, end = part.pieces[0][0], part.pieces[-1][1]
        # a loss may be of any size, and its adjoint is linear in it
        scale = np.abs(packed).max() or 1.0
        stepper = DOP853(
            slope, end, packed, begin, rtol=self.problem.tolerance, atol=self.problem.tolerance * scale
        )
        pieces = []
        while stepper.status == "running":
            stepper.step()
            dense = stepper.dense_output()
            pieces.append((stepper.t, stepper.t_old, lambda t, dense=dense: dense(t)[:size]))
        for piece in reversed(pieces):
            segment.add(*piece)
        self.adjoint = stepper.y[:size].reshape(self.adjoint.shape)
        self.parameters = stepper.y[size : size + self.parameters.size].reshape(self.parameters.shape)
        self.taus = stepper.y[size + self.parameters.size :]

    def _integrand(self, time: float, values: Array) -> tuple[float, Array]:
        """The integrand and its derivatives [S, N] by the states."""
        if self.integrand is None:
            return 0.0, np.zeros_like(values[:-1])
        states = torch.tensor(values[:-1], requires_grad=True)
        with torch.enable_grad():
            value = self.integrand(time, *states)
            (gradient,) = torch.autograd.grad(value, states)
        return value.item(), gradient.numpy()

    def _jump(self, event: Event, of_spikes: Array) -> None:
        problem, after = self.problem, self.adjoint
        moved, to_parameters = after.copy(), np.zeros_like(self.parameters)
        if event.kind != "input":
            # the reset of all neurons at once, of which a spike takes one
            some = slice(None) if event.kind == "silent" else [event.source]
            to_states, by_parameters = problem.terms.reset_transposed(
                event.before[:-1], after[:-1], float(event.kind == "spike")
            )
            moved[:-1, some] = to_states[:, some]
            to_parameters[:, some] = by_parameters[:, some]
        by_moment = (moved * problem.slope(event.before)).sum() - (after * problem.slope(event.after)).sum()
        by_moment += (
            self._integrand(event.time, event.before)[0] - self._integrand(event.time, event.after)[0]
        )
        if event.kind == "input":
            self.inputs[event.source][event.number] = by_moment
            self.weights[:, event.source] += after[-1]
        elif event.kind == "spike":
            n = event.source
            to_states, by_parameters = problem.terms.threshold_gradient(event.before[:-1])
            speed = to_states[:, n] @ problem.slope(event.before)[:-1, n]
            if speed < SMALLEST_SLOPE:
                raise UserError(
                    f"neuron {n} only touches its threshold at {event.time:.6g} ms, rising by {speed:.3g} per ms: its time has no derivative"
                )
            share = (by_moment + of_spikes[event.number]) / speed
            moved[:-1, n] -= to_states[:, n] * share
            to_parameters[:, n] -= by_parameters[:, n] * share
            self.weights[:, len(problem.inputs) + n] += after[-1]
        elif abs(by_moment) > SILENT * np.abs(after).max():
            raise UserError(
                f"a reset without a spike at {event.time:.6g} ms changes the loss by its moment, which has no derivative; let the flow bring the change about"
            )
        self.adjoint, self.parameters = moved, self.parameters + to_parameters
