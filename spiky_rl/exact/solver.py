"""Networks of spiking neurons in continuous time, solved from event to event in double precision.

    dI/dt = -I / tau_synapse,  I <- I + w at a spike of weight w;   d state / dt = flow(I, state);   threshold(state) = 0:  spike

Between events the equations of all neurons are solved by an explicit Runge-Kutta method of order 8 with step size control. Spikes are
roots of the threshold function on the solution's interpolant. The function is evaluated at `PROBES` points per step. If it rises and
falls between two points, it is also evaluated at its maximum there, so that a spike that barely reaches the threshold is found too. The
solver aims at correctness, not speed: its cost grows with neurons x events.

A neuron whose reset leaves it on its threshold spikes again only after it has been below the threshold (``armed``). A reset with a spike
of 0 may change states too, such as at the end of the refractory period of Hodgkin and Huxley. The solver looks for such silent resets at
the same `PROBES` points.

Source of the method: Hairer, Norsett & Wanner (1993), DOP853.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.integrate import DOP853, quad
from scipy.optimize import brentq
from torch import Tensor

from spiky_rl.config.options import UserError, shorten, suggest_name
from spiky_rl.exact.terms import Array, NeuronTerms
from spiky_rl.neurons.base import Ode

PROBES = 8
"""Number of points per step at which thresholds are evaluated."""
SILENT_RESET = -1
"""Event of a reset without a spike; the event of a spike is the index of its neuron."""
ON_THRESHOLD = 1e-9
"""Largest distance at which a neuron counts as being on its threshold."""
ROOT_TOLERANCE_MS, ROOT_RELATIVE_TOLERANCE = 1e-13, 1e-15
MAX_INTEGRAND_STEP_MS = 1.0
"""Longest interval of one quadrature; a much shorter change of the integrand may be missed."""
QUADRATURE_TOLERANCE, MAX_INTERVALS = 1e-12, 200
"""Relative tolerance of one quadrature, and the maximum number of parts into which it divides its interval, as at a jump."""

Integrand = Callable[..., Tensor | float]
"""A function to integrate over time: (time in ms, one tensor [N] per state) -> a number or scalar tensor."""
Function = Callable[[Array], Array]
"""A function of states and currents: [S + 1, ..., N] -> [..., N]."""
Interpolant = Callable[..., Array]
"""A piece of a solution: time in ms -> all values in one row; several times -> one column each."""


@dataclass(frozen=True)
class Event:
    """A discontinuity of states or currents."""

    time: float
    kind: str
    """``input``, ``spike``, or ``silent`` for a reset without a spike."""
    source: int
    """Index of the input or neuron; -1 for a reset without a spike."""
    number: int
    """Index among the input's times, or among all spikes; -1 for a reset without a spike."""
    before: Array
    """[S + 1, N]: states and synaptic currents."""
    after: Array


@dataclass(frozen=True)
class SpikeEvent:
    """A neuron and the time of its spike in ms."""

    neuron: int
    time: float


@dataclass
class Trajectory:
    """A solution between two events."""

    shape: tuple[int, ...]
    pieces: list[tuple[float, float, Interpolant]] = field(default_factory=list)
    """(start, end, interpolant) in order of time, in ms."""

    def __call__(self, time: float) -> Array:
        """Return the values at a ``time`` in ms, in ``shape``."""
        index = max(0, bisect.bisect_right(self.pieces, time, key=lambda piece: piece[0]) - 1)
        _, _, interpolant = self.pieces[index]
        return interpolant(time).reshape(self.shape)


@dataclass(frozen=True)
class SpikingProblem:
    """A network, its inputs and the solver's tolerance; see `spiky_rl.exact.adjoint.solve_network`."""

    terms: NeuronTerms
    weights: Array
    """[N, inputs + N]."""
    inputs: tuple[Array, ...]
    """Spike times of every input in ms."""
    duration: float
    tau_synapse: Array
    """[N], in ms."""
    spiking: Array
    """bool [N]: False for readouts."""
    tolerance: float

    def slope(self, values: Array) -> Array:
        """Return d/dt of ``values`` [S + 1, N], the states and currents."""
        return np.concatenate([self.terms.flow(values[-1], values[:-1]), -values[-1:] / self.tau_synapse])

    def distance(self, values: Array) -> Array:
        """Return the distances to the threshold, [..., N], of ``values`` [S + 1, ..., N]; minus infinity for readouts."""
        return np.where(self.spiking, self.terms.threshold(values[:-1]), -np.inf)

    def rise(self, values: Array) -> Array:
        """Return d distance/dt, [..., N], of ``values`` [S + 1, ..., N]."""
        gradient, _ = self.terms.threshold_gradient(values[:-1])
        return (gradient * self.slope(values)[:-1]).sum(0)


class EventSolver:
    """Solves a problem from event to event."""

    def __init__(self, problem: SpikingProblem, start: Array, max_spikes: int) -> None:
        self.problem, self.max_spikes = problem, max_spikes
        self.time, self.values = 0.0, start
        self.armed = np.ones(start.shape[1], bool)
        """Whether each neuron may spike: it has been below its threshold since its last spike."""
        self.events: list[Event] = []
        self.segments: list[Trajectory] = []
        self.spikes: list[SpikeEvent] = []

    def run(self) -> None:
        """Fill ``events`` and ``segments``: one segment before each event and one after the last."""
        arrivals = (
            (time, source, number)
            for source, times in enumerate(self.problem.inputs)
            for number, time in enumerate(times)
        )
        for time, source, number in sorted(arrivals):
            self._advance(float(time))
            after = self.values.copy()
            after[-1] += self.problem.weights[:, source]
            self._jump("input", source, number, after)
        self._advance(self.problem.duration)

    def _jump(self, kind: str, source: int, number: int, after: Array) -> None:
        self.events.append(Event(self.time, kind, source, number, self.values, after))
        self.values = after

    def _advance(self, end: float) -> None:
        """Solve up to the time ``end``, through all spikes on the way."""
        while True:
            segment = Trajectory(self.values.shape)
            due = np.flatnonzero(self.armed & (self.problem.distance(self.values) >= 0.0))
            event = int(due[0]) if len(due) else self._solve_until_event(end, segment)
            self.segments.append(segment)
            if event is None:
                return
            if event == SILENT_RESET:
                self._jump("silent", -1, -1, self._reset_without_spike(self.values))
            else:
                self._spike(event)

    def _solve_until_event(self, end: float, segment: Trajectory) -> int | None:
        """Solve until the next event or ``end``; return the neuron of a spike, `SILENT_RESET`, or None at ``end``."""
        problem, shape = self.problem, self.values.shape
        if self.time >= end:
            return None
        stepper = DOP853(
            lambda _, y: problem.slope(y.reshape(shape)).ravel(),
            self.time,
            self.values.ravel(),
            end,
            rtol=problem.tolerance,
            atol=problem.tolerance,
        )
        while stepper.status == "running":
            with np.errstate(all="ignore"):
                message = stepper.step()
            if stepper.status == "failed":
                raise UserError(
                    f"the network cannot be solved beyond {stepper.t:.6g} ms: {message} (do states grow without bound?)"
                )
            start, interpolant = float(stepper.t_old or 0.0), stepper.dense_output()
            event, time = self._find_first_event(start, float(stepper.t), interpolant)
            segment.pieces.append((start, time, interpolant))
            if event is not None:
                self.time, self.values = time, interpolant(time).reshape(shape)
                return event
        self.time, self.values = end, stepper.y.reshape(shape)
        return None

    def _find_first_event(
        self, start: float, end: float, interpolant: Interpolant
    ) -> tuple[int | None, float]:
        """Return the first event of a step, as in `_solve_until_event`, and its time."""
        times = np.linspace(start, end, PROBES + 1)
        shape = self.values.shape
        values = interpolant(times).reshape(*shape, len(times)).swapaxes(1, 2)
        distance, rise = self.problem.distance(values), self.problem.rise(values)
        changed = (self._reset_without_spike(values) != values).any((0, 2))
        # the tangent at the first point is an upper bound of a concave curve between two points
        bound = distance[:-1] + (times[1] - times[0]) * rise[:-1]
        may_peak_above = (rise[:-1] > 0.0) & (rise[1:] < 0.0) & (bound >= 0.0)
        for i in range(PROBES):
            self.armed |= distance[i] < -ON_THRESHOLD
            candidates = np.flatnonzero(self.armed & (may_peak_above[i] | (distance[i + 1] >= 0.0)))
            spikes = []
            for n in candidates.tolist():
                highest_at = float(times[i + 1])
                # the distance rises and falls between the points: its maximum is where its slope is 0
                if distance[i + 1, n] < 0.0:
                    highest_at = self._find_root(self.problem.rise, n, interpolant, times[i], highest_at)
                if self._evaluate(self.problem.distance, n, interpolant, highest_at) >= 0.0:
                    time = self._find_root(self.problem.distance, n, interpolant, times[i], highest_at)
                    spikes.append((time, n))
            if spikes:
                time, neuron = min(spikes)
                return neuron, time
            if changed[i + 1]:
                return SILENT_RESET, float(times[i + 1])
        return None, end

    def _evaluate(self, function: Function, neuron: int, interpolant: Interpolant, time: float) -> float:
        """Return a function of a neuron's values at a time within a step."""
        return float(function(interpolant(time).reshape(self.values.shape))[neuron])

    def _find_root(
        self, function: Function, neuron: int, interpolant: Interpolant, low: float, high: float
    ) -> float:
        """Return the time between ``low`` and ``high`` at which the ``function`` of a neuron changes its sign."""

        def evaluate(time: float) -> float:
            return self._evaluate(function, neuron, interpolant, time)

        # by rounding, a start on the threshold may lie on the same side as the end: the root is then the start
        if evaluate(low) * evaluate(high) > 0.0:
            return low
        return float(brentq(evaluate, low, high, xtol=ROOT_TOLERANCE_MS, rtol=ROOT_RELATIVE_TOLERANCE))  # type: ignore[arg-type]

    def _reset_without_spike(self, values: Array) -> Array:
        """Return the values after a reset with a spike of 0."""
        return np.concatenate([self.problem.terms.reset(values[:-1], 0.0), values[-1:]])

    def _spike(self, neuron: int) -> None:
        if len(self.spikes) >= self.max_spikes:
            raise UserError(
                f"max_spikes: more than {self.max_spikes} spikes within {self.time:.6g} ms, the last of neuron {neuron}; raise max_spikes or lower the weights"
            )
        after = self.values.copy()
        after[:-1, neuron] = self.problem.terms.reset(self.values[:-1])[:, neuron]
        after[-1] += self.problem.weights[:, len(self.problem.inputs) + neuron]
        distance = self.problem.distance(after)[neuron]
        if distance > ON_THRESHOLD:
            raise UserError(
                f"neuron {neuron} is above its threshold after its reset at {self.time:.6g} ms, by {distance:.3g}: it would spike without end"
            )
        self.armed[neuron] = distance < -ON_THRESHOLD
        self.spikes.append(SpikeEvent(neuron, self.time))
        self._jump("spike", neuron, len(self.spikes) - 1, after)


def integrate(segments: Sequence[Trajectory], integrand: Integrand) -> float:
    """Return the integral of ``integrand`` over ``segments``, by adaptive quadrature; the integrand may jump in time."""
    total = 0.0
    for segment in segments:

        def evaluate(time: float, segment: Trajectory = segment) -> float:
            return float(integrand(time, *torch.as_tensor(segment(time)[:-1])))

        for start, end, _ in segment.pieces:
            for low, high in itertools.pairwise(divide(start, end)):
                # the full output replaces a warning where rounding limits the accuracy
                total += quad(
                    evaluate,
                    low,
                    high,
                    epsabs=0.0,
                    epsrel=QUADRATURE_TOLERANCE,
                    limit=MAX_INTERVALS,
                    full_output=1,
                )[0]
    return total


def divide(start: float, end: float) -> Array:
    """Return times from ``start`` to ``end``, both included, at most `MAX_INTEGRAND_STEP_MS` apart."""
    return np.linspace(start, end, max(1, math.ceil((end - start) / MAX_INTEGRAND_STEP_MS)) + 1)


def build_parameters(neuron: Ode, width: int, overrides: Mapping[str, object]) -> Array:
    """Return the parameters [P, N] of ``width`` neurons; ``overrides`` (one number or [N] each) replace the neuron's own values.

    Raises UserError for an unknown name or a value out of range.
    """
    for name in overrides:
        if name not in neuron.params:
            raise UserError(
                f"parameters: {name!r} given; allowed for this neuron: {', '.join(neuron.params)}{suggest_name(name, neuron.params)}"
            )
    table = np.empty((len(neuron.params), width))
    for row, (name, param) in enumerate(neuron.params.items()):
        table[row] = to_array(f"parameters.{name}", overrides.get(name, neuron.chosen[name]), (width,))
        param.require(f"parameters.{name}", float(table[row].min()))
        param.require(f"parameters.{name}", float(table[row].max()))
    return table


def to_array(name: str, values: object, shape: tuple[int, ...]) -> Array:
    """Return ``values`` as finite doubles, broadcast to ``shape``. Raises UserError with ``name`` if that is impossible."""
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError):  # words, or rows of different lengths
        raise UserError(
            f"{name}: expected numbers in the shape {list(shape)}, got {shorten(values)}"
        ) from None
    if not np.isfinite(array).all():
        raise UserError(f"{name}: expected finite numbers, got {array.tolist()}")
    try:
        return np.broadcast_to(array, shape).copy()
    except ValueError:
        raise UserError(f"{name}: expected the shape {list(shape)}, got {list(array.shape)}") from None
