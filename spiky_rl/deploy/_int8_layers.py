"""Parts of a quantised network: their integers, and the inner step of their neurons.

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

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._int8_arithmetic import DECAY_BITS, NARROW_LIMIT, WIDE_LIMIT

type Constants = Callable[[str], Any]
"""Returns a constant of a layer by its name: a tensor [N], or the C expression of neuron n's value."""
REAL_BITS = 16
"""Fraction bits of a quadratic neuron's values, which have the equations' own unit."""
REAL_LIMIT = 2**26
RATIO_LIMIT = 2**28
"""Largest current and largest factor of a quadratic neuron."""


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


@dataclass
class Int8Encoder:
    """An encoder: rounds normalised observations to integers and makes channels of them."""

    kind: str
    width: int
    """Number of channels C."""
    factor: Tensor
    """Factor of an observation before it is rounded, [O] float; of receptive fields [O, P]."""
    limit: int
    """Largest rounded observation."""
    threshold: int = 0
    """sigma_delta: smallest change that is sent; delta: change per spike; latency: smallest activity that spikes."""
    starts_at_first: bool = False
    """delta: whether the reference starts at the first observation."""
    noise: Tensor | None = None
    """rate, population: the noise that probabilities are compared with, [K, C] integers."""
    offset: Tensor | None = None
    """Receptive fields: their centres in the unit of a rounded observation, [O, P] float."""
    table: Tensor | None = None
    """Receptive fields: activity by distance to the centre, [D] integers."""
    span: float = math.inf
    """Receptive fields: bound to which observations are clipped."""
    spike: int = 1
    """Integer of a spike; more than 1 beside graded channels."""
    parts: Sequence[Int8Encoder] = ()
    """concat: the two encoders."""

    @property
    def constant(self) -> bool:
        """Whether the signal is the same in all inner steps."""
        return self.kind == "direct" or (bool(self.parts) and all(part.constant for part in self.parts))

    @property
    def states(self) -> int:
        """Number of states."""
        own_states = {"delta": 1 + self.starts_at_first, "sigma_delta": 1}.get(self.kind, 0)
        return own_states + sum(part.states for part in self.parts)

    def list_encoders(self) -> list[Int8Encoder]:
        """Return the encoder, its parts and their parts."""
        return [self, *(encoder for part in self.parts for encoder in part.list_encoders())]

    def __call__(self, x: Tensor, states: list[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
        """Encode an observation [B, O]; return the signal [B, C] of every inner step, or one if it is constant, and the new state."""
        if self.parts:
            return self._encode_parts(x, states, steps)
        if self.table is not None:
            return self._encode_fields(x, steps), []
        integers = op.round_clamped(x * self.factor, self.limit)
        if self.kind == "direct":
            return [integers], []
        if self.kind == "rate":
            assert self.noise is not None
            both = torch.cat([integers, -integers], -1)
            return [op.is_below(row.expand_as(both), both) * self.spike for row in self.noise], []
        if self.kind == "sigma_delta":
            event, reference = op.send_change(integers, states[0], self.threshold)
            return [event, *[torch.zeros_like(event)] * (steps - 1)], [reference]
        reference, has_begun = states[0], list[Tensor]()
        if self.starts_at_first:
            reference = torch.where(states[1] > 0, reference, integers)
            has_begun = [torch.ones_like(states[1])]
        count, reference = op.count_changes(integers, reference, self.threshold, steps)
        both = torch.cat([count, -count], -1)
        return [(both > k).long() * self.spike for k in range(steps)], [reference, *has_begun]

    def _encode_parts(self, x: Tensor, states: list[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
        first_encoder, second_encoder = self.parts
        first, first_states = first_encoder(x, states[: first_encoder.states], steps)
        second, second_states = second_encoder(x, states[first_encoder.states :], steps)
        count = max(len(first), len(second))  # a constant signal has one element, which is repeated
        pairs = zip(first * (count // len(first)), second * (count // len(second)), strict=True)
        return [torch.cat(pair, -1) for pair in pairs], [*first_states, *second_states]

    def _encode_fields(self, x: Tensor, steps: int) -> list[Tensor]:
        assert self.table is not None and self.offset is not None
        distance = op.round_clamped(
            x.clamp(-self.span, self.span).unsqueeze(-1) * self.factor - self.offset, self.limit
        )
        activity = op.interpolate(op.take_size(distance), self.table, FIELD_BITS).flatten(-2)
        if self.kind == "latency":
            time = op.time_spike(activity, steps, self.threshold)
            return [(time == k).long() * self.spike for k in range(steps)]
        if self.noise is not None:
            return [op.is_below(row.expand_as(activity), activity) * self.spike for row in self.noise]
        v, signal = torch.zeros_like(activity), []
        for _ in range(steps):
            spike, v = op.integrate_activity(v, activity)
            signal.append(spike * self.spike)
        return signal


FIELD_BITS = 5
"""Fraction bits of a distance between two entries of a receptive field's table."""


@dataclass
class Int8Layer(ABC):
    """Base of all layers."""

    source: Int8Format
    """Format of the input."""
    weight: Tensor
    """[C, N]."""
    recurrent_weight: Tensor | None
    """Recurrent weights, [D N, N]."""
    unit: Tensor
    """Current of an input of 1 through a weight of 1, [N] float64."""
    bias: Tensor
    """[N], in the unit of the neuron's state."""
    title: str
    """Number and size of the layer, for comments and messages."""

    state_names = ("v",)

    @property
    def output_format(self) -> Int8Format:
        """Format of the output."""
        return Int8Format(False)

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


@dataclass
class Int8SpikingLayer(Int8Layer):
    """LIF and ALIF neurons."""

    has_adaptation: bool
    """Whether spikes raise the threshold, as in ALIF."""
    resets_to_zero: bool
    """Whether a spike resets the membrane to 0; else it subtracts the threshold."""
    is_wide: bool
    """Whether membranes have 32 bits; else 16."""
    fraction: Tensor
    """Fraction bits of a membrane below the neuron's unit, [N]."""
    threshold: Tensor
    decay: Tensor
    is_trace_wide: bool
    """Whether adaptation traces have 32 bits; else 16."""
    trace_fraction: int
    """Fraction bits of the adaptation trace; one spike is 2^trace_fraction."""
    trace_decay: Tensor
    adaptation: Tensor
    """Increase of the threshold per spike in the trace, [N]."""

    def __post_init__(self) -> None:
        self.state_names = ("v", "a") if self.has_adaptation else ("v",)
        self.gain, self.bits = 2**self.fraction, self.fraction - self.source.exponent

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
        v = op.name(
            op.decay(states[0], constant("decay"), self.is_wide, DECAY_BITS[self.is_wide]) + current, "v"
        )
        threshold, traces = constant("threshold"), []
        if self.has_adaptation:
            trace = op.decay(
                states[1], constant("trace_decay"), self.is_trace_wide, DECAY_BITS[self.is_trace_wide]
            )
            trace = op.name(trace, "a")
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


@dataclass
class Int8SigmaDeltaLayer(Int8Layer):
    """Sigma-delta neurons. Their sums are exact; all neurons of a layer share the unit of the output."""

    is_rectified: bool
    sent_format: Int8Format
    threshold: Tensor
    factor: Tensor
    """Factor from the sum to the output's unit, [N]: y = (sum * factor) >> shift."""
    shift: int

    state_names = ("total", "sent")

    @property
    def output_format(self) -> Int8Format:
        return self.sent_format

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


@dataclass
class Int8QuadraticLayer(Int8Layer):
    """Quadratic integrate-and-fire neurons: v <- (v (1 - h T) + I T') / (1 + h T - v T), with T by a table of the current."""

    factor: Tensor
    """Factor from a sum of weights to the current, [N]: current = (sum * factor) >> shift."""
    shift: int
    step_size: Tensor
    """dt / tau, [N]."""
    half: Tensor
    """Half the critical potential, [N]."""
    slope: Tensor
    """Entries of the table per unit of the current, [N]."""
    start: Tensor
    """Position in the table of a current of 0, [N]."""
    peak: Tensor
    reset: Tensor
    table: Tensor
    """T by its position, [D]."""
    least: int
    """Smallest denominator."""

    def scale_input(self, total: Any, constant: Constants) -> Any:
        return op.multiply(total, constant("factor"), self.shift, REAL_LIMIT) + constant("bias")

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


TABLE_BITS = 8
"""Fraction bits of a position between two entries of the quadratic neuron's table."""


@dataclass
class Int8Readout:
    """A decoder."""

    kind: str
    """membrane, rate, first_spike, linear or sigma_delta."""
    read: str
    """membrane: its value over the inner steps that is read: last, mean or max."""
    source: Int8Format
    """Format of the input."""
    weight: Tensor
    """[N, F]."""
    scale: Tensor
    """Value of the integer 1 of the result, [F] float."""
    bias: Tensor
    """[F] float."""
    decay: int
    fraction: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of the state, if the decoder has one."""
        return (self.weight.shape[1],) if self.kind in ("membrane", "sigma_delta") else ()

    def integrate(self, total: Any, drive: Any) -> Any:
        """Return the new state after an inner step with the input ``drive``."""
        if self.kind == "membrane":
            return op.integrate_readout(total, drive, self.decay, self.fraction)
        return op.add_change(total, drive)

    def __call__(self, events: list[Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the last layer's outputs [B, N] of every inner step; return features [B, F] and the new state."""
        if self.kind == "first_spike":  # a neuron counts in all inner steps from its first spike on
            events = list(torch.stack(events).cummax(0).values)
        sums = [op.integer_matmul(event, self.weight) for event in events]
        if self.kind == "linear":
            return self._scale(sums[-1]), []
        if self.kind in ("rate", "first_spike"):
            return self._scale(torch.stack(sums).sum(0)), []
        total, totals = states[0], []
        for part in sums:
            total = self.integrate(total, part)
            totals.append(total)
        if self.kind == "sigma_delta" or self.read == "last":
            return self._scale(total), [total]
        potentials = torch.stack(totals)  # of all inner steps
        potential = potentials.sum(0) if self.read == "mean" else potentials.amax(0)
        return self._scale(potential), [total]

    def _scale(self, total: Tensor) -> Tensor:
        return total.float() * self.scale + self.bias
