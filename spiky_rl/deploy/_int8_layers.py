"""Layers of a quantised network: their integers, and the inner step of their neurons.

Weights are int8, in a unit of their postsynaptic neuron; a neuron's input is a whole number of this unit. Membranes have
``fraction`` bits below the unit. A step is written in `_int8_arithmetic`'s vocabulary: it runs in torch and is printed as C.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._int8_arithmetic import CURRENT_LIMIT, DECAY_BITS, NARROW_LIMIT, SUM_LIMIT, WIDE_LIMIT
from spiky_rl.deploy.base import ExportError
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons import quadratic
from spiky_rl.neurons.alif import Alif
from spiky_rl.neurons.sigma_delta import SigmaDeltaNeuron

MAX_CHANNELS = 2**16
"""Number of channels from which an event's 16-bit index overflows."""

type Constants = Callable[[str], Any]
"""Returns a constant of a layer by its name: a tensor [N], or the C expression of neuron n's value."""
STATE_ROOM = 2.0
"""Headroom: a state is clamped at this multiple of its range in the rollout."""
MIN_LEAK = 32
"""Smallest leak of a membrane at its threshold in a step, in the membrane's smallest unit, for which 16 bits are enough."""
MAX_TRACE_ERROR = 2.0**-5
"""Largest value, in spikes, at which rounding may stop the decay of a trace."""
REAL_BITS = 16
"""Fraction bits of a quadratic neuron's values, which have the equations' own unit."""
REAL_LIMIT, RATIO_LIMIT = 2**26, 2**28
"""Largest current and largest factor of a quadratic neuron."""
TABLE_START, TABLE_ENTRIES = -24.0, 1056
"""Quadratic neurons: smallest argument in the table of tan(sqrt(z)) / sqrt(z), and number of its intervals."""
TABLE_BITS = 8
"""Fraction bits of a position between two entries of the quadratic neuron's table."""


@dataclass(frozen=True)
class Int8Format:
    """Integer format of a signal: spikes, or graded values with a unit."""

    graded: bool
    """Whether values are graded; spikes are 0 or 1."""
    exponent: int = 0
    """The value is the integer times 2^-exponent."""
    limit: int = 1
    """Largest absolute integer."""

    @property
    def unit(self) -> float:
        """Value of the integer 1."""
        return 2.0**-self.exponent


@dataclass(frozen=True)
class LayerInput:
    """A layer in single precision, and what its integers depend on beside it."""

    layer: SpikingLayer
    title: str
    """Number and size of the layer, for comments and messages."""
    source: Int8Format
    """Format of the input."""
    weights: Sequence[Tensor]
    """Integers [C, N] and, in a recurrent layer, [D N, N]."""
    unit: Tensor
    """Unit of the weights, [N] float64."""
    seen: Tensor
    """Largest states in the rollout, [N]."""
    next_largest: int
    """Largest sum of the next weights to a neuron."""

    @property
    def params(self) -> dict[str, Tensor]:
        """Parameters of the neurons, [N] float64 each."""
        values = zip(self.layer.neuron.params, self.layer.parameters_of_neuron(), strict=True)
        return {
            name: torch.as_tensor(value).detach().cpu().double().expand(self.layer.width)
            for name, value in values
        }

    @property
    def bias(self) -> Tensor:
        """Bias of the neurons, [N] float64."""
        return get_linear(self.layer).bias.detach().cpu().double()


class Int8Layer(ABC):
    """Base of all layers; its constants [N] are attributes."""

    state_names: tuple[str, ...] = ("v",)
    output_format = Int8Format(False)
    """Format of the output."""

    def __init__(self, given: LayerInput, unit: Tensor) -> None:
        """Take weights and title; ``unit``: current of an input of 1 through a weight of 1, [N] float64."""
        self.source, self.title, self.unit = given.source, given.title, unit
        self.weight, self.recurrent_weight = given.weights[0], None
        if len(given.weights) > 1:
            self.recurrent_weight = given.weights[1]

    @property
    def width(self) -> int:
        """Number of neurons N."""
        return self.weight.shape[1]

    @property
    def delays(self) -> int:
        """Number of delays D of the recurrent connection; 0 without one."""
        return 0 if self.recurrent_weight is None else self.recurrent_weight.shape[0] // self.width

    @property
    def c_types(self) -> tuple[str, ...]:
        """C types of the neuron's states."""
        return ("int32_t",) * len(self.state_names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: the neuron's, then the last D outputs."""
        return (self.width,) * (len(self.state_names) + self.delays)

    def get_constant(self, name: str) -> Tensor:
        """Return the integers [N] called ``name``."""
        return getattr(self, name)

    @abstractmethod
    def scale_input(self, total: Any, constant: Constants) -> Any:
        """Return the current of the input's sums ``total`` and the bias."""

    def scale_feedback(self, total: Any, constant: Constants) -> Any:
        """Return the current of the recurrent connection's sums ``total``; a layer of graded values has no such connection."""
        raise NotImplementedError(f"{type(self).__name__} has no recurrent connection")

    @abstractmethod
    def step(self, current: Any, states: Sequence[Any], constant: Constants) -> tuple[Any, list[Any]]:
        """Run an inner step; return the output and the neuron's new states."""

    def __call__(self, current: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one inner step in torch; return the output [B, N] and the new states."""
        count = len(self.state_names)
        neuron_states, past_outputs = states[:count], states[count:]
        if self.recurrent_weight is not None:
            total = op.integer_matmul(torch.cat(past_outputs, -1), self.recurrent_weight)
            current = current + self.scale_feedback(total, self.get_constant)
        output, new = self.step(current, neuron_states, self.get_constant)
        return output, [*new, *([output, *past_outputs][: self.delays])]

    def compute_current(self, signal: Tensor) -> Tensor:
        """Return the current [B, N] of ``signal`` [B, C] and the bias."""
        return self.scale_input(op.integer_matmul(signal, self.weight), self.get_constant)

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        """Return the potential, the first of the ``states``, as floats, [B, N]."""
        return (states[0] * self.unit).float()


class Int8SpikingLayer(Int8Layer):
    """LIF and ALIF neurons: membranes, and adaptation traces in which one spike is 2^trace_fraction, of 16 or, if wide, of 32 bits."""

    def __init__(self, given: LayerInput) -> None:
        neuron, params, unit, bias = given.layer.neuron, given.params, given.unit, given.bias
        decay, threshold = params["tau"], params["threshold"]
        if neuron.chosen["input_gain"] == "ode":
            unit, bias = unit * (1.0 - decay), bias * (1.0 - decay)
        super().__init__(given, unit)
        self.has_adaptation = isinstance(neuron.source_neuron, Alif)
        if self.has_adaptation:
            self.state_names = ("v", "a")
        self.resets_to_zero = neuron.chosen["reset"] == "zero"
        adaptation = params.get("adaptation", torch.zeros_like(unit))
        reach = torch.maximum(given.seen.double(), threshold + adaptation)
        # sum of the weights of spikes
        counted = given.weights[1:] if given.source.graded else given.weights
        largest = sum((weight.abs().sum(0) for weight in counted), torch.ones(self.width, dtype=torch.int64))

        def choose_fraction(limit: int, room: float, most: int) -> Tensor:
            bits = torch.minimum((limit / (room * reach / unit)).log2(), (CURRENT_LIMIT / largest).log2())
            return bits.floor().clamp(-16, most).long()

        narrow = choose_fraction(NARROW_LIMIT, STATE_ROOM, 8)
        leak = threshold / unit * 2.0**narrow * (1.0 - decay)
        raised = adaptation / unit * 2.0**narrow
        self.is_wide = bool((narrow < 0).any() or (leak < MIN_LEAK).any() or (raised >= 2**16).any())
        self.fraction = narrow
        if self.is_wide:
            self.fraction = choose_fraction(WIDE_LIMIT, 2.0 * STATE_ROOM, 12).clamp(min=0)
        own_unit = unit * 2.0**-self.fraction
        self.gain, self.bits = 2**self.fraction, self.fraction - self.source.exponent
        self.bias = _round_current(bias / own_unit)
        self.threshold = _round_current(threshold / own_unit).clamp(min=1)
        self.decay = (decay * 2 ** DECAY_BITS[self.is_wide]).round().long()
        trace_decay = params.get("tau_adaptation", torch.zeros_like(unit))
        most_trace = float(1.0 / (1.0 - trace_decay.max().clamp(max=1.0 - 1e-6))) + 1.0
        trace_bits = choose_exponent(NARROW_LIMIT, most_trace, 12)
        trace_error = float((0.5 / (1.0 - trace_decay)).max()) * 2.0**-trace_bits
        self.is_trace_wide = self.is_wide or trace_bits < 4 or trace_error > MAX_TRACE_ERROR
        self.trace_fraction = 16 if self.is_trace_wide else trace_bits
        self.trace_decay = (trace_decay * 2 ** DECAY_BITS[self.is_trace_wide]).round().long()
        self.adaptation = _round_current(adaptation / own_unit)  # of the threshold per spike in the trace

    @property
    def c_types(self) -> tuple[str, ...]:
        widths = (self.is_wide, self.is_trace_wide)[: len(self.state_names)]
        return tuple("int32_t" if is_wide else "int16_t" for is_wide in widths)

    def scale_input(self, total: Any, constant: Constants) -> Any:
        if not self.source.graded:
            return total * constant("gain") + constant("bias")
        return op.scale_by_power(total, constant("bits")) + constant("bias")

    def scale_feedback(self, total: Any, constant: Constants) -> Any:
        return total * constant("gain")

    def step(self, current: Any, states: Sequence[Any], constant: Constants) -> tuple[Any, list[Any]]:
        v = op.name(op.decay(states[0], constant("decay"), self.is_wide) + current, "v")
        threshold, traces = constant("threshold"), []
        if self.has_adaptation:
            trace = op.name(op.decay(states[1], constant("trace_decay"), self.is_trace_wide), "a")
            raised = op.decay(trace, constant("adaptation"), self.is_trace_wide, self.trace_fraction)
            spike = op.name(op.is_at_least(v, raised + threshold), "spike")
            most = WIDE_LIMIT if self.is_trace_wide else NARROW_LIMIT
            traces = [op.clamp(trace + spike * (1 << self.trace_fraction), most)]
        else:
            spike = op.name(op.is_at_least(v, threshold), "spike")
        reset = op.select(spike, 0 if self.resets_to_zero else v - threshold, v)
        return spike, [op.clamp(reset, WIDE_LIMIT if self.is_wide else NARROW_LIMIT), *traces]

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        return (states[0] * self.unit * 2.0**-self.fraction).float()


class Int8SigmaDeltaLayer(Int8Layer):
    """Sigma-delta neurons. Their sums are exact; all neurons of a layer share the unit of the output y = (sum * factor) >> shift."""

    state_names = ("total", "sent")

    def __init__(self, given: LayerInput) -> None:
        super().__init__(given, given.unit * given.source.unit)
        self.is_rectified = given.layer.neuron.chosen["activation"] == "relu"
        # an event is a difference of two values
        limit = min(NARROW_LIMIT, SUM_LIMIT // given.next_largest) // (1 if self.is_rectified else 2)
        largest, threshold = float(given.seen.max()), given.params["threshold"]
        exponent = choose_exponent(limit, STATE_ROOM * largest, 14)
        self.output_format = Int8Format(True, exponent, limit)
        self.threshold = (threshold * 2.0**exponent).round().long()
        if (self.threshold < 1).any():
            raise ExportError(
                f"c_int8: {self.title}: threshold {float(threshold.min()):.3g} is below the resolution of 16 bits for values"
                f" up to {largest:.3g}"
            )
        self.bias = _round_current(given.bias / self.unit)
        self.factor, self.shift = _split_factor(self.unit * 2.0**exponent)

    @property
    def c_types(self) -> tuple[str, ...]:
        return ("int32_t", "int16_t")

    def scale_input(self, total: Any, constant: Constants) -> Any:
        return total + constant("bias")

    def step(self, current: Any, states: Sequence[Any], constant: Constants) -> tuple[Any, list[Any]]:
        total = op.name(op.clamp(states[0] + current, 2 * WIDE_LIMIT), "total")
        y = op.name(op.multiply(total, constant("factor"), self.shift, self.output_format.limit), "y")
        value = op.select(op.is_at_least(y, 0), y, 0) if self.is_rectified else y
        change = op.name(value - states[1], "change")
        sent = op.is_at_least(op.take_size(change), constant("threshold"))
        event = op.name(op.select(sent, change, 0), "event")
        return event, [total, states[1] + event]


class Int8QuadraticLayer(Int8Layer):
    """Quadratic integrate-and-fire neurons: v <- (v (1 - h T) + I T') / (1 + h T - v T), with T by a table of the current.

    A current is (sum of weights * factor) >> shift, ``half`` half the critical potential, and ``least`` the smallest denominator. The
    table has ``slope`` entries per unit of the current, whose 0 is at the position ``start``.
    """

    def __init__(self, given: LayerInput) -> None:
        super().__init__(given, given.unit * given.source.unit)
        if self.source.graded and self.recurrent_weight is not None:
            raise ExportError(
                "c_int8: agent.network.recurrent: not available for quadratic neurons with graded input"
            )
        neuron, params = given.layer.neuron, given.params
        step_size, half = neuron.dt / params["tau"], 0.5 * params["critical"]
        real, top = 2.0**REAL_BITS, quadratic.MAX_ANGLE**2
        interval = (top - TABLE_START) / TABLE_ENTRIES
        z = TABLE_START + interval * torch.arange(TABLE_ENTRIES + 2, dtype=torch.float64)
        root = z.clamp(max=top).abs().sqrt().clamp(min=1e-9)
        ratio = torch.where(z > 0, root.tan(), root.tanh()) / root
        self.table = (torch.where(z.abs() > 1e-12, ratio, 1.0) * real).round().long()
        # position = (z - TABLE_START) / interval with z = (current - half^2) step^2
        scale, start = 2.0**TABLE_BITS / interval, -half.square() * step_size.square() - TABLE_START
        self.slope = (step_size.square() * scale).round().long().clamp(max=2**28)
        self.start = (start * scale).round().long().clamp(-(2**28), 2**28)
        self.bias = (given.bias * real).round().clamp(-REAL_LIMIT, REAL_LIMIT).long()
        self.factor, self.shift = _split_factor(self.unit * real)
        self.step_size, self.half = (step_size * real).round().long(), (half * real).round().long()
        self.peak, self.reset = (
            torch.full_like(self.unit, neuron.chosen[name] * real).round().long()
            for name in ("peak", "reset")
        )
        self.least = max(1, round(quadratic.MIN_DENOMINATOR * real))

    def scale_input(self, total: Any, constant: Constants) -> Any:
        return self.scale_feedback(total, constant) + constant("bias")

    def scale_feedback(self, total: Any, constant: Constants) -> Any:
        return op.multiply(total, constant("factor"), self.shift, REAL_LIMIT)

    def step(self, current: Any, states: Sequence[Any], constant: Constants) -> tuple[Any, list[Any]]:
        v, one, most = states[0], 1 << REAL_BITS, RATIO_LIMIT
        current = op.name(op.clamp(current, REAL_LIMIT), "current")
        last = (len(self.table) - 1) * (1 << TABLE_BITS) // 2 - 1
        offset = op.multiply(current, constant("slope"), REAL_BITS, WIDE_LIMIT) + constant("start") - last
        position = op.name(op.clamp(offset, last) + last, "position")
        ratio = op.name(op.interpolate(position, constant("table"), TABLE_BITS), "ratio")
        m = op.name(op.multiply(ratio, constant("step_size"), REAL_BITS, most), "m")
        pull = op.name(op.multiply(m, constant("half"), REAL_BITS, most), "pull")
        above = op.multiply(v, -pull + one, REAL_BITS, most) + op.multiply(current, m, REAL_BITS, most)
        above = op.name(above, "above")
        below = op.name(-op.multiply(v, m, REAL_BITS, most) + pull + one, "below")
        excess = op.name(above - op.multiply(below, constant("peak"), REAL_BITS, most), "excess")
        floor = op.name(op.select(op.is_at_least(below, self.least), below, self.least), "divisor")
        inside = op.divide(above, floor, REAL_BITS, WIDE_LIMIT)
        moved = op.name(op.select(op.is_below(excess, 0), inside, excess + constant("peak")), "moved")
        spike = op.name(op.is_at_least(moved, constant("peak")), "spike")
        return spike, [op.clamp(op.select(spike, constant("reset"), moved), WIDE_LIMIT)]

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        return (states[0] * 2.0**-REAL_BITS).float()


def quantize_layer(given: LayerInput) -> Int8Layer:
    """Quantise a layer. Raises ExportError if its rule has graded spikes, or it has too many channels."""
    neuron = given.layer.neuron.source_neuron
    if given.layer.neuron.graded and not neuron.graded:
        raise ExportError("c_int8: agent.network.learning: no int8 implementation of graded spikes")
    if (channels := len(given.weights[0])) >= MAX_CHANNELS:
        raise ExportError(f"c_int8: inputs of a layer: {channels} given; allowed: at most {MAX_CHANNELS - 1}")
    if isinstance(neuron, SigmaDeltaNeuron):
        return Int8SigmaDeltaLayer(given)
    return Int8QuadraticLayer(given) if isinstance(neuron, quadratic.Quadratic) else Int8SpikingLayer(given)


def get_linear(layer: SpikingLayer) -> LinearConnection:
    """Return the connection of a ``layer`` that passed `CInt8.check_network`."""
    assert isinstance(layer.connection, LinearConnection)
    return layer.connection


def choose_exponent(limit: float, size: float, most: int) -> int:
    """Return the largest exponent, from -16 to ``most``, with size * 2^exponent <= limit."""
    return most if size <= 0.0 else max(-16, min(most, math.floor(math.log2(limit / size))))


def _split_factor(factor: Tensor) -> tuple[Tensor, int]:
    """Return integers, and the shift of their products that makes them the ``factor`` [N]."""
    shift = max(1, min(62, 30 - math.ceil(math.log2(float(factor.max())))))
    return (factor * 2.0**shift).round().long().clamp(max=2**31 - 1), shift


def _round_current(x: Tensor) -> Tensor:
    return x.round().clamp(-CURRENT_LIMIT, CURRENT_LIMIT).long()
