"""Layers of a quantised network: their integers, and the inner step of their neurons.

Weights are int8, in a unit of their postsynaptic neuron; a neuron's input is a whole number of this unit. Membranes have
``fraction`` bits below the unit. A step is written in `_int8_arithmetic`'s vocabulary: it runs in torch and is printed as C.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._int8_arithmetic import CURRENT_LIMIT, DECAY_BITS, NARROW_LIMIT, SUM_LIMIT, WIDE_LIMIT
from spiky_rl.deploy.base import ExportError
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons import quadratic
from spiky_rl.neurons.alif import Alif
from spiky_rl.neurons.base import Neuron
from spiky_rl.neurons.sigma_delta import SigmaDeltaNeuron

MAX_CHANNELS = 2**16
"""Number of channels from which an event's 16-bit index overflows."""

STATE_HEADROOM = 2.0
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

    @property
    def c_type(self) -> str:
        """C type of the integers."""
        return "int16_t" if self.graded else "uint8_t"


class Int8Layer(ABC):
    """Base of all layers. Its constants, integers [N], are attributes; methods take them from ``c``, the layer or its names in C."""

    state_types: dict[str, str]
    """C type of each state of the neuron; the first state is the potential."""
    output_format = Int8Format(False)
    """Format of the output."""

    def __init__(
        self,
        layer: SpikingLayer,
        title: str,
        source: Int8Format,
        weights: Sequence[Tensor],
        unit: Tensor,
        max_potential: Tensor,
        next_largest: int,
    ) -> None:
        """Quantise a ``layer``.

        Args:
            layer: The layer in single precision.
            title: Number and size of the layer, for comments and messages.
            source: Format of the input.
            weights: Integers [C, N] and, in a recurrent layer, [D N, N].
            unit: Unit of the weights, [N] float64.
            max_potential: Largest absolute potential (first state) of each neuron in the rollout, [N].
            next_largest: Largest sum of absolute weights from this layer to a neuron of the next one.
        """
        self.title, self.source, self.unit = title, source, unit
        self.weight, self.recurrent_weight = weights[0], weights[1] if len(weights) > 1 else None
        connection: Any = layer.connection
        params = zip(layer.neuron.params, layer.parameters_of_neuron(), strict=True)
        values = {**dict(params), "bias": connection.bias, "max_potential": max_potential}
        for name, value in values.items():
            values[name] = torch.as_tensor(value).detach().cpu().double().expand(layer.width)
        self.quantize(layer.neuron, values, next_largest)

    @abstractmethod
    def quantize(self, neuron: Neuron, values: dict[str, Tensor], next_largest: int) -> None:
        """Set the constants; ``values``: the neuron's parameters, ``bias`` and ``max_potential`` by name, [N] float64 each."""

    @property
    def width(self) -> int:
        """Number of neurons N."""
        return self.weight.shape[1]

    @property
    def delays(self) -> int:
        """Number of delays D of the recurrent connection; 0 without one."""
        return 0 if self.recurrent_weight is None else self.recurrent_weight.shape[0] // self.width

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: the neuron's, then the last D outputs."""
        return (self.width,) * (len(self.state_types) + self.delays)

    @abstractmethod
    def scale_input(self, total: Any, c: Any) -> Any:
        """Return the current of the input's sums ``total`` and the bias."""

    def scale_feedback(self, total: Any, c: Any) -> Any:
        """Return the current of the recurrent connection's sums ``total``; a layer of graded values has no such connection."""
        raise NotImplementedError(f"{type(self).__name__} has no recurrent connection")

    @abstractmethod
    def step(self, current: Any, states: Sequence[Any], c: Any) -> tuple[Any, list[Any]]:
        """Run an inner step; return the output and the neuron's new states."""

    def __call__(self, current: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one inner step in torch; return the output [B, N] and the new states."""
        count = len(self.state_types)
        neuron_states, past_outputs = states[:count], states[count:]
        if self.recurrent_weight is not None:
            total = op.integer_matmul(torch.cat(past_outputs, -1), self.recurrent_weight)
            current = current + self.scale_feedback(total, self)
        output, new = self.step(current, neuron_states, self)
        return output, [*new, *([output, *past_outputs][: self.delays])]

    def compute_current(self, signal: Tensor) -> Tensor:
        """Return the current [B, N] of ``signal`` [B, C] and the bias."""
        return self.scale_input(op.integer_matmul(signal, self.weight), self)

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        """Return the potential, the first of the ``states``, as floats, [B, N]."""
        return (states[0] * self.unit).float()


class Int8SpikingLayer(Int8Layer):
    """LIF and ALIF neurons: membranes, and adaptation traces in which one spike is 2^trace_fraction, of 16 or, if wide, of 32 bits."""

    def quantize(self, neuron: Neuron, values: dict[str, Tensor], next_largest: int) -> None:
        decay, threshold, bias = values["tau"], values["threshold"], values["bias"]
        if neuron.chosen["input_gain"] == "ode":
            self.unit, bias = self.unit * (1.0 - decay), bias * (1.0 - decay)
        self.resets_to_zero = neuron.chosen["reset"] == "zero"
        adaptation = values.get("adaptation", torch.zeros_like(decay))
        self._choose_fraction(
            torch.maximum(values["max_potential"], threshold + adaptation), decay, threshold, adaptation
        )
        own_unit = self.unit * 2.0**-self.fraction
        self.gain, self.bits = 2**self.fraction, self.fraction - self.source.exponent
        self.bias = _round_current(bias / own_unit)
        self.threshold = _round_current(threshold / own_unit).clamp(min=1)
        self.decay = (decay * 2 ** DECAY_BITS[self.is_wide]).round().long()
        self.state_types = {"v": _get_state_type(self.is_wide)}
        self.is_trace_wide = False
        if isinstance(neuron.source_neuron, Alif):
            self._quantize_trace(values["tau_adaptation"])
            self.adaptation = _round_current(adaptation / own_unit)  # of the threshold per spike in the trace

    def _choose_fraction(self, reach: Tensor, decay: Tensor, threshold: Tensor, adaptation: Tensor) -> None:
        """Choose the membranes' fraction bits, [N], and whether they have 32 bits (``is_wide``); ``reach``: largest potentials."""
        largest_sum = torch.ones(self.width, dtype=torch.int64)  # of the weights of spikes
        for weight in (None if self.source.graded else self.weight, self.recurrent_weight):
            if weight is not None:
                largest_sum = largest_sum + weight.abs().sum(0)

        def choose(limit: int, room: float, max_bits: int) -> Tensor:
            bits = torch.minimum(
                (limit / (room * reach / self.unit)).log2(), (CURRENT_LIMIT / largest_sum).log2()
            )
            return bits.floor().clamp(-16, max_bits).long()

        narrow = choose(NARROW_LIMIT, STATE_HEADROOM, 8)
        leak = threshold / self.unit * 2.0**narrow * (1.0 - decay)
        raised = adaptation / self.unit * 2.0**narrow
        self.is_wide = bool((narrow < 0).any() or (leak < MIN_LEAK).any() or (raised >= 2**16).any())
        self.fraction = choose(WIDE_LIMIT, 2.0 * STATE_HEADROOM, 12).clamp(min=0) if self.is_wide else narrow

    def _quantize_trace(self, decay: Tensor) -> None:
        largest = float(1.0 / (1.0 - decay.max().clamp(max=1.0 - 1e-6))) + 1.0
        bits = choose_exponent(NARROW_LIMIT, largest, 12)
        error = float((0.5 / (1.0 - decay)).max()) * 2.0**-bits
        self.is_trace_wide = self.is_wide or bits < 4 or error > MAX_TRACE_ERROR
        self.trace_fraction = 16 if self.is_trace_wide else bits
        self.trace_decay = (decay * 2 ** DECAY_BITS[self.is_trace_wide]).round().long()
        self.state_types["a"] = _get_state_type(self.is_trace_wide)

    def scale_input(self, total: Any, c: Any) -> Any:
        return (op.scale_by_power(total, c.bits) if self.source.graded else total * c.gain) + c.bias

    def scale_feedback(self, total: Any, c: Any) -> Any:
        return total * c.gain

    def step(self, current: Any, states: Sequence[Any], c: Any) -> tuple[Any, list[Any]]:
        v = op.name(op.decay(states[0], c.decay, self.is_wide) + current, "v")
        threshold, traces = c.threshold, []
        if "a" in self.state_types:
            trace = op.name(op.decay(states[1], c.trace_decay, self.is_trace_wide), "a")
            raised = op.decay(trace, c.adaptation, self.is_trace_wide, self.trace_fraction)
            spike = op.name(op.as_integer(v >= raised + threshold), "spike")
            most = WIDE_LIMIT if self.is_trace_wide else NARROW_LIMIT
            traces = [op.clamp(trace + spike * (1 << self.trace_fraction), most)]
        else:
            spike = op.name(op.as_integer(v >= threshold), "spike")
        reset = op.select(spike, 0 if self.resets_to_zero else v - threshold, v)
        return spike, [op.clamp(reset, WIDE_LIMIT if self.is_wide else NARROW_LIMIT), *traces]

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        return (states[0] * self.unit * 2.0**-self.fraction).float()


class Int8SigmaDeltaLayer(Int8Layer):
    """Sigma-delta neurons. Their sums are exact; all neurons of a layer share the unit of the output y = (sum * factor) >> shift."""

    state_types = {"total": "int32_t", "sent": "int16_t"}

    def quantize(self, neuron: Neuron, values: dict[str, Tensor], next_largest: int) -> None:
        self.unit = self.unit * self.source.unit
        self.is_rectified = neuron.chosen["activation"] == "relu"
        # an event is a difference of two values
        limit = min(NARROW_LIMIT, SUM_LIMIT // next_largest) // (1 if self.is_rectified else 2)
        largest, threshold = float(values["max_potential"].max()), values["threshold"]
        exponent = choose_exponent(limit, STATE_HEADROOM * largest, 14)
        self.output_format = Int8Format(True, exponent, limit)
        self.threshold = (threshold * 2.0**exponent).round().long()
        if (self.threshold < 1).any():
            raise ExportError(
                f"c_int8: {self.title}: threshold {float(threshold.min()):.3g} is below the resolution of 16 bits for values"
                f" up to {largest:.3g}"
            )
        self.bias = _round_current(values["bias"] / self.unit)
        self.factor, self.shift = _split_factor(self.unit * 2.0**exponent)

    def scale_input(self, total: Any, c: Any) -> Any:
        return total + c.bias

    def step(self, current: Any, states: Sequence[Any], c: Any) -> tuple[Any, list[Any]]:
        total = op.name(op.clamp(states[0] + current, 2 * WIDE_LIMIT), "total")
        y = op.name(op.multiply(total, c.factor, self.shift, self.output_format.limit), "y")
        value = op.select(y >= 0, y, 0) if self.is_rectified else y
        event, sent = op.send_change(value, states[1], c.threshold)
        return event, [total, sent]


class Int8QuadraticLayer(Int8Layer):
    """Quadratic integrate-and-fire neurons: v <- (v (1 - h T) + I T') / (1 + h T - v T), with T by a table of the current.

    A current is (sum of weights * factor) >> shift, ``half`` half the critical potential, and ``least`` the smallest denominator. The
    table has ``slope`` entries per unit of the current, whose 0 is at the position ``start``.
    """

    state_types = {"v": "int32_t"}

    def quantize(self, neuron: Neuron, values: dict[str, Tensor], next_largest: int) -> None:
        self.unit = self.unit * self.source.unit
        if self.source.graded and self.recurrent_weight is not None:
            raise ExportError(
                "c_int8: agent.network.recurrent: not available for quadratic neurons with graded input"
            )
        step_size, half = neuron.dt / values["tau"], 0.5 * values["critical"]
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
        self.bias = (values["bias"] * real).round().clamp(-REAL_LIMIT, REAL_LIMIT).long()
        self.factor, self.shift = _split_factor(self.unit * real)
        self.step_size, self.half = (step_size * real).round().long(), (half * real).round().long()
        self.peak, self.reset = (
            torch.full_like(self.unit, neuron.chosen[name] * real).round().long()
            for name in ("peak", "reset")
        )
        self.least = max(1, round(quadratic.MIN_DENOMINATOR * real))

    def scale_input(self, total: Any, c: Any) -> Any:
        return self.scale_feedback(total, c) + c.bias

    def scale_feedback(self, total: Any, c: Any) -> Any:
        return op.multiply(total, c.factor, self.shift, REAL_LIMIT)

    def step(self, current: Any, states: Sequence[Any], c: Any) -> tuple[Any, list[Any]]:
        v, one, most = states[0], 1 << REAL_BITS, RATIO_LIMIT
        current = op.name(op.clamp(current, REAL_LIMIT), "current")
        last = (len(self.table) - 1) * (1 << TABLE_BITS) // 2 - 1
        offset = op.multiply(current, c.slope, REAL_BITS, WIDE_LIMIT) + c.start - last
        position = op.name(op.clamp(offset, last) + last, "position")
        ratio = op.name(op.interpolate(position, c.table, TABLE_BITS), "ratio")
        m = op.name(op.multiply(ratio, c.step_size, REAL_BITS, most), "m")
        pull = op.name(op.multiply(m, c.half, REAL_BITS, most), "pull")
        above = op.multiply(v, -pull + one, REAL_BITS, most) + op.multiply(current, m, REAL_BITS, most)
        above = op.name(above, "above")
        below = op.name(-op.multiply(v, m, REAL_BITS, most) + pull + one, "below")
        excess = op.name(above - op.multiply(below, c.peak, REAL_BITS, most), "excess")
        floor = op.name(op.select(below >= self.least, below, self.least), "divisor")
        inside = op.divide(above, floor, REAL_BITS, WIDE_LIMIT)
        # beyond the peak the neuron is reset, so the exact value does not matter, and adding the excess could overflow
        moved = op.name(op.select(excess < 0, inside, c.peak), "moved")
        spike = op.name(op.as_integer(moved >= c.peak), "spike")
        return spike, [op.clamp(op.select(spike, c.reset, moved), WIDE_LIMIT)]

    def compute_potential(self, states: list[Tensor]) -> Tensor:
        return (states[0] * 2.0**-REAL_BITS).float()


def get_layer_class(layer: SpikingLayer, channels: int) -> type[Int8Layer]:
    """Return the class that quantises a ``layer`` of ``channels`` inputs.

    Raises ExportError if its rule has graded spikes, or it has too many channels.
    """
    neuron = layer.neuron.source_neuron
    if layer.neuron.graded and not neuron.graded:
        raise ExportError("c_int8: agent.network.learning: no int8 implementation of graded spikes")
    if channels >= MAX_CHANNELS:
        raise ExportError(f"c_int8: inputs of a layer: {channels} given; allowed: at most {MAX_CHANNELS - 1}")
    if isinstance(neuron, SigmaDeltaNeuron):
        return Int8SigmaDeltaLayer
    return Int8QuadraticLayer if isinstance(neuron, quadratic.Quadratic) else Int8SpikingLayer


def choose_exponent(limit: float, size: float, max_exponent: int) -> int:
    """Return the largest exponent, from -16 to ``max_exponent``, with size * 2^exponent <= limit."""
    if size <= 0.0:
        return max_exponent
    return max(-16, min(max_exponent, math.floor(math.log2(limit / size))))


def _split_factor(factor: Tensor) -> tuple[Tensor, int]:
    """Return integers [N] and a shift such that multiplying by an integer and shifting right multiplies by the ``factor`` [N]."""
    shift = max(1, min(62, 30 - math.ceil(math.log2(float(factor.max())))))
    return (factor * 2.0**shift).round().long().clamp(max=2**31 - 1), shift


def _get_state_type(is_wide: bool) -> str:
    return "int32_t" if is_wide else "int16_t"


def _round_current(x: Tensor) -> Tensor:
    return x.round().clamp(-CURRENT_LIMIT, CURRENT_LIMIT).long()
