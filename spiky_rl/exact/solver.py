"""Networks of spiking neurons in continuous time: solved from event to event, in double precision.

    dI/dt = -I / tau_synapse,  I <- I + w at a spike of weight w;   d state / dt = flow(I, state);   threshold(state) = 0:  spike

Between events the equations of all neurons are solved by an explicit Runge-Kutta method of order 8 with step control. Spikes are
roots of the threshold on the solution's interpolant, which is looked at `PROBES` times per step, and at its top where it
rises and falls in between, so that a spike is found that only just reaches its threshold. For correctness, not for speed: the
cost grows with neurons x events.

A neuron whose reset leaves it on its threshold (a neuron without reset) can spike again once it has been below it. What a
neuron does without a spike, such as the end of Hodgkin and Huxley's refractoriness, is its reset with a spike of 0: it is looked for
at the same points in time.

Source of the method: Hairer, Norsett & Wanner (1993), DOP853.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.optimize import brentq
from torch import Tensor

from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.exact.terms import Array, NeuronTerms
from spiky_rl.neurons.base import Ode

PROBES = 8
"""Points of a step at which thresholds are looked at."""
ON_THRESHOLD = 1e-9
"""Distance to the threshold within which a neuron counts as standing on it."""
ROOT, RELATIVE = 1e-13, 1e-15
"""ms, and share of the time, to which a root is found."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
"""Nodes and weights of the quadrature over one step: exact for the interpolant's degree."""

Integrand = Callable[..., Tensor]
"""(time in ms, a tensor [N] per state) -> a scalar tensor: what is integrated over time."""


Function = Callable[[Array], Array]
"""Values [S + 1, ..., N] -> [..., N]."""


@dataclass(frozen=True)
class Event:
    """A moment at which something jumps."""

    time: float
    kind: str
    """``input``, ``spike``, or ``silent``: a reset without a spike."""
    source: int
    """The input or the neuron."""
    number: int
    """Which of the input's times, or of all spikes, this is."""
    before: Array
    """[S + 1, N]: states and synaptic currents."""
    after: Array


@dataclass(frozen=True)
class SpikeEvent:
    """A neuron and the time of its spike in ms."""

    neuron: int
    time: float


class Trajectory:
    """A solution between two events: interpolants in order of time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.pieces: list[tuple[float, float, Callable[[float], Array]]] = []
        self._starts: list[float] = []

    def add(self, start: float, end: float, interpolant: Callable[[float], Array]) -> None:
        """Continue by a piece from ``start`` to ``end``, in ms; its ``interpolant`` gives the values at a time."""
        self.pieces.append((start, end, interpolant))
        self._starts.append(start)

    def __call__(self, time: float) -> Array:
        """The values at a ``time`` in ms, in ``shape``."""
        piece = max(0, bisect.bisect_right(self._starts, time) - 1)
        return self.pieces[piece][2](time).reshape(self.shape)


@dataclass(frozen=True)
class SpikingProblem:
    """A network, what it is given and how exactly it is to be solved; see `spiky_rl.exact.adjoint.solve_network`."""

    terms: NeuronTerms
    weights: Array
    inputs: tuple[Array, ...]
    duration: float
    tau_synapse: Array
    spiking: Array
    tolerance: float

    def slope(self, values: Array) -> Array:
        """d/dt of states and currents, the ``values`` [S + 1, N]."""
        return np.concatenate([self.terms.flow(values[-1], values[:-1]), -values[-1:] / self.tau_synapse])

    def distance(self, values: Array) -> Array:
        """[..., N]: distances to the threshold of ``values`` [S + 1, ..., N]; readouts are infinitely far from it."""
        return np.where(self.spiking, self.terms.threshold(values[:-1]), -np.inf)

    def rise(self, values: Array) -> Array:
        """[..., N]: d distance/dt of ``values`` [S + 1, ..., N]."""
        gradient, _ = self.terms.threshold_gradient(values[:-1])
        return (gradient * self.slope(values)[:-1]).sum(0)


class EventSolver:
    """Goes through a problem from event to event."""

    def __init__(self, problem: SpikingProblem, start: Array, max_spikes: int) -> None:
        self.problem, self.max_spikes = problem, max_spikes
        self.time, self.values = 0.0, start
        self.armed = np.ones(start.shape[1], bool)
        self.events: list[Event] = []
        self.segments: list[Trajectory] = []
        self.spikes: list[SpikeEvent] = []

    def run(self) -> None:
        """Fill ``events`` and ``segments``: one segment before each event and one behind the last."""
        arrivals = sorted(
            (time, source, number)
            for source, times in enumerate(self.problem.inputs)
            for number, time in enumerate(times)
        )
        for time, source, number in arrivals:
            self._advance(float(time))
            after = self.values.copy()
            after[-1] += self.problem.weights[:, source]
            self._jump("input", source, number, after)
        self._advance(self.problem.duration)

    def _jump(self, kind: str, source: int, number: int, after: Array) -> None:
        self.events.append(Event(self.time, kind, source, number, self.values, after))
        self.values = after

    def _advance(self, end: float) -> None:
        """Up to ``end``, through all spikes on the way."""
        while True:
            segment = Trajectory(self.values.shape)
            due = np.flatnonzero(self.armed & (self.problem.distance(self.values) >= 0.0))
            neuron = int(due[0]) if len(due) else self._until_event(end, segment)
            self.segments.append(segment)
            if neuron is None:
                return
            if neuron >= 0:
                self._spike(neuron)
            else:
                self._jump("silent", -1, -1, self._unspiked(self.values))

    def _until_event(self, end: float, segment: Trajectory) -> int | None:
        """Solve until ``end`` (None), a spike (its neuron) or a reset without a spike (-1)."""
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
            before, interpolant = stepper.t_old, stepper.dense_output()
            event, time = self._find_first_event(float(before or 0.0), float(stepper.t), interpolant)
            segment.add(float(before or 0.0), time, interpolant)
            if event is not None:
                self.time, self.values = time, interpolant(time).reshape(shape)
                return event
        self.time, self.values = end, stepper.y.reshape(shape)
        return None

    def _find_first_event(
        self, start: float, end: float, interpolant: Callable[..., Array]
    ) -> tuple[int | None, float]:
        """What happens first in a step, and when."""
        times = np.linspace(start, end, PROBES + 1)
        shape = self.values.shape
        values = interpolant(times).reshape(*shape, len(times)).swapaxes(1, 2)
        distance, rise = self.problem.distance(values), self.problem.rise(values)
        changed = (self._unspiked(values) != values).any((0, 2))
        # a bound for what is between two points of a curve that bends down
        bound = distance[:-1] + (times[1] - times[0]) * rise[:-1]
        between = (rise[:-1] > 0.0) & (rise[1:] < 0.0) & (bound >= 0.0)
        for i in range(PROBES):
            self.armed |= distance[i] < -ON_THRESHOLD
            roots = []
            for n in np.flatnonzero(self.armed & (between[i] | (distance[i + 1] >= 0.0))).tolist():
                top = float(times[i + 1])
                if distance[i + 1, n] < 0.0:
                    top = self._root(self.problem.rise, n, interpolant, times[i], top)
                if self._at(self.problem.distance, n, interpolant, top) >= 0.0:
                    roots.append((self._root(self.problem.distance, n, interpolant, times[i], top), n))
            if roots:
                time, neuron = min(roots)
                return neuron, time
            if changed[i + 1]:
                return -1, float(times[i + 1])
        return None, end

    def _at(
        self, function: Function, neuron: int, interpolant: Callable[[float], Array], time: float
    ) -> float:
        """A function of a neuron's values at a time within a step."""
        return float(function(interpolant(time).reshape(self.values.shape))[neuron])

    def _root(
        self, function: Function, neuron: int, interpolant: Callable[[float], Array], low: float, high: float
    ) -> float:
        """When the function changes its sign."""

        def at(time: float) -> float:
            return self._at(function, neuron, interpolant, time)

        # rounding may have moved a start that is on the threshold
        if at(low) * at(high) > 0.0:
            return low
        return float(brentq(at, low, high, xtol=ROOT, rtol=RELATIVE))  # type: ignore[arg-type]

    def _unspiked(self, values: Array) -> Array:
        """What a step without spikes makes of the values."""
        return np.concatenate([self.problem.terms.reset(values[:-1], 0.0), values[-1:]])

    def _spike(self, neuron: int) -> None:
        if len(self.spikes) >= self.max_spikes:
            raise UserError(
                f"max_spikes: more than {self.max_spikes} spikes in {self.time:.6g} ms, the last of neuron {neuron}; allow more or lower the weights"
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
    """The ``integrand`` over the time of ``segments``, by Gauss and Legendre's quadrature over each of the solver's steps."""
    total = 0.0
    for start, end, interpolant, shape in (
        (*piece, part.shape) for part in segments for piece in part.pieces
    ):
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            time = 0.5 * (start + end + (end - start) * node)
            states = interpolant(time).reshape(shape)[:-1]
            total += 0.5 * (end - start) * weight * float(integrand(time, *torch.as_tensor(states)))
    return total


def parameters_of(neuron: Ode, width: int, instead: Mapping[str, object]) -> Array:
    """[P, N], N = ``width``: the ``neuron``'s own parameters, or those given ``instead``: one number, or [N]. Raises UserError for a bad one."""
    for name in instead:
        if name not in neuron.params:
            raise UserError(
                f"parameters: {name!r} is no parameter of this neuron; it has {', '.join(neuron.params)}{suggest_name(name, neuron.params)}"
            )
    table = np.empty((len(neuron.params), width))
    for row, (name, param) in enumerate(neuron.params.items()):
        table[row] = to_array(f"parameters.{name}", instead.get(name, neuron.chosen[name]), (width,))
        for value in (table[row].min(), table[row].max()) if width else ():
            param.require(f"parameters.{name}", float(value))
    return table


def to_array(name: str, values: object, shape: tuple[int, ...]) -> Array:
    """The ``values`` as finite doubles of a ``shape``, to which they may be broadcast. Raises UserError that names them by ``name``."""
    array = np.asarray(values, float)
    if not np.isfinite(array).all():
        raise UserError(f"{name}: expected finite numbers, got {array.tolist()}")
    try:
        return np.broadcast_to(array, shape).copy()
    except ValueError:
        raise UserError(f"{name}: expected the shape {list(shape)}, got {list(array.shape)}") from None
