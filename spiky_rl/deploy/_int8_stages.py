"""Parts of a quantised network and their steps: the arithmetic of ``policy.c``, in torch.

Weights are int8, in a unit of their postsynaptic neuron; a neuron's input is a whole number of this unit. Membranes have
``fraction`` bits below the unit. Integers are int64 here and are clamped where C clamps, so both are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROW_LIMIT, WIDE_LIMIT = 2**15 - 1, 2**29
"""Largest absolute value of a state in 16 and in 32 bits. The second leaves room for the sums of a step below 2^31."""
CURRENT_LIMIT, SUM_LIMIT = 2**28, 2**29
"""Largest current of a step in a membrane's unit, and largest sum of weights times graded inputs. Sums of both do not overflow."""
DECAY_BITS = {False: 15, True: 30}
"""Fraction bits of a decay factor, by whether its state is wide (32 bits)."""


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
    """An encoder: rounds normalised observations to integers and makes the first layer's input of them."""

    kind: str
    factor: Tensor
    """Factor of an observation before it is rounded, [O] float."""
    limit: int
    """Largest rounded observation."""
    threshold: int = 0
    """sigma_delta: smallest change that is sent; delta: change per spike."""
    first: bool = False
    """delta: whether the reference starts at the first observation."""
    noise: Tensor | None = None
    """rate: the noise that rates are compared with, [K, C] integers."""

    def __call__(self, x: Tensor, held: list[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
        """Encode an observation [B, O]; return the signal [B, C] of every inner step, or one if it is constant, and the new state."""
        integers = round_clamped(x * self.factor, self.limit)
        if self.kind == "direct":
            return [integers], []
        if self.kind == "rate":
            assert self.noise is not None
            both = torch.cat([integers, -integers], -1)
            return [(row < both).long() for row in self.noise], []
        if self.kind == "sigma_delta":
            change = integers - held[0]
            event = change * (change.abs() >= self.threshold)
            return [event, *[torch.zeros_like(event)] * (steps - 1)], [held[0] + event]
        reference, after = held[0], []
        if self.first:
            reference, after = torch.where(held[1] > 0, reference, integers), [torch.ones_like(held[1])]
        count = torch.div(integers - reference, self.threshold, rounding_mode="trunc").clamp(-steps, steps)
        both = torch.cat([count, -count], -1)
        return [(both > k).long() for k in range(steps)], [reference + count * self.threshold, *after]


@dataclass
class Int8Stage:
    """Base of all layers."""

    source: Int8Format
    """Format of the input."""
    weight: Tensor
    """[C, N]."""
    within: Tensor | None
    """Recurrent weights, [D N, N]."""
    unit: Tensor
    """Current of an input of 1 through a weight of 1, [N] float64."""
    bias: Tensor
    """[N], in the unit of the neuron's state."""
    place: str
    """Description of the layer, for comments and messages."""

    @property
    def width(self) -> int:
        """Number of neurons N."""
        return self.weight.shape[1]

    @property
    def delays(self) -> int:
        """Number of delays D of the recurrent connection; 0 without one."""
        return 0 if self.within is None else self.within.shape[0] // self.width


@dataclass
class Int8SpikingStage(Int8Stage):
    """LIF and ALIF neurons."""

    adaptive: bool
    zero: bool
    """Whether a spike resets the membrane to 0; else it subtracts the threshold."""
    wide: bool
    """Whether membranes have 32 bits; else 16."""
    fraction: Tensor
    """Fraction bits of a membrane below the neuron's unit, [N]."""
    threshold: Tensor
    decay: Tensor
    trace_wide: bool
    trace_fraction: int
    """Fraction bits of the adaptation trace; one spike is 2^trace_fraction."""
    trace_decay: Tensor
    adaptation: Tensor
    """Increase of the threshold per spike in the trace, [N]."""

    @property
    def output_format(self) -> Int8Format:
        """Format of the output."""
        return Int8Format(False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: membrane, trace if adaptive, the last D outputs."""
        return (self.width,) * (1 + self.adaptive + self.delays)

    def compute_current(self, signal: Tensor) -> Tensor:
        """Return the current [B, N] of ``signal`` [B, C] and the bias."""
        total = integer_matmul(signal, self.weight)
        if not self.source.graded:
            return total * 2**self.fraction + self.bias
        return scale_by_power(total, self.fraction - self.source.exponent) + self.bias

    def __call__(self, current: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one inner step; return the spikes [B, N] and the new states."""
        v, rest, past = held[0], held[1:], held[1 + self.adaptive :]
        if self.within is not None:
            current = current + integer_matmul(torch.cat(past, -1), self.within) * 2**self.fraction
        v = shift_right(v * self.decay, DECAY_BITS[self.wide]) + current
        threshold, after = self.threshold, []
        if self.adaptive:
            trace = shift_right(rest[0] * self.trace_decay, DECAY_BITS[self.trace_wide])
            raised = shift_right(trace * self.adaptation, self.trace_fraction).clamp(max=WIDE_LIMIT)
            threshold = threshold + raised
        spike = (v >= threshold).long()
        v = v * (1 - spike) if self.zero else v - spike * self.threshold
        if self.adaptive:
            most = WIDE_LIMIT if self.trace_wide else NARROW_LIMIT
            after.append((trace + spike * 2**self.trace_fraction).clamp(max=most))
        most = WIDE_LIMIT if self.wide else NARROW_LIMIT
        return spike, [v.clamp(-most, most), *after, *([spike, *past] if self.delays else [])[: self.delays]]

    def compute_potential(self, held: list[Tensor]) -> Tensor:
        """Return the membranes in the states ``held`` as floats, [B, N]."""
        return (held[0] * self.unit * 2.0**-self.fraction).float()


@dataclass
class Int8SigmaDeltaStage(Int8Stage):
    """Sigma-delta neurons. Their sums are exact; all neurons of a layer share the unit of the output."""

    rectified: bool
    output_format: Int8Format
    """Format of the output."""
    threshold: Tensor
    factor: Tensor
    """Factor from the sum to the output's unit, [N]: y = (sum * factor) >> shift."""
    shift: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: sum, and value sent so far."""
        return (self.width, self.width)

    def compute_current(self, signal: Tensor) -> Tensor:
        """Return the current [B, N] of ``signal`` [B, C] and the bias."""
        return integer_matmul(signal, self.weight) + self.bias

    def __call__(self, current: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one inner step; return the events [B, N] and the new states."""
        total = (held[0] + current).clamp(-2 * WIDE_LIMIT, 2 * WIDE_LIMIT)
        y = shift_right(total * self.factor, self.shift).clamp(
            -self.output_format.limit, self.output_format.limit
        )
        change = (y.clamp(min=0) if self.rectified else y) - held[1]
        event = change * (change.abs() >= self.threshold)
        return event, [total, held[1] + event]

    def compute_potential(self, held: list[Tensor]) -> Tensor:
        """Return the sums in the states ``held`` as floats, [B, N]."""
        return (held[0] * self.unit).float()


@dataclass
class Int8Readout:
    """A decoder."""

    kind: str
    """membrane, rate, linear or sigma_delta."""
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

    def __call__(self, events: list[Tensor], held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the last layer's outputs [B, N] of every inner step; return features [B, F] and the new state."""
        sums = [integer_matmul(event, self.weight) for event in events]
        if self.kind == "linear":
            return self._features(sums[-1]), []
        if self.kind == "rate":
            return self._features(torch.stack(sums).sum(0)), []
        total, seen = held[0], []
        for part in sums:
            if self.kind == "membrane":
                total = shift_right(total * self.decay, DECAY_BITS[True]) + part * 2**self.fraction
                total = total.clamp(-WIDE_LIMIT, WIDE_LIMIT)
            else:
                total = (total + part).clamp(-2 * WIDE_LIMIT, 2 * WIDE_LIMIT)
            seen.append(total)
        if self.kind == "sigma_delta" or self.read == "last":
            return self._features(total), [total]
        whole_step = torch.stack(seen)
        potential = whole_step.sum(0) if self.read == "mean" else whole_step.amax(0)
        return self._features(potential), [total]

    def _features(self, total: Tensor) -> Tensor:
        return total.float() * self.scale + self.bias


def round_clamped(x: Tensor, limit: int) -> Tensor:
    """Round floats ``x`` to the nearest integers, halves away from 0, clamped to ``limit``; NaN gives 0."""
    x = x.nan_to_num(nan=0.0, posinf=float(limit), neginf=-float(limit)).clamp(-limit, limit)
    return (x + torch.where(x < 0, -0.5, 0.5)).trunc().long()


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Return the integers ``x`` / 2^``bits``, rounded to the nearest, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def scale_by_power(x: Tensor, bits: Tensor) -> Tensor:
    """Return the integers ``x`` [B, N] * 2^``bits`` [N]; rounded if bits are negative, else clamped before the shift."""
    up, down = bits.clamp(min=0), (-bits).clamp(min=0)
    most = CURRENT_LIMIT >> up
    half = torch.where(down > 0, 1 << (down - 1).clamp(min=0), 0)
    return torch.where(down > 0, (x + half) >> down, x.clamp(-most, most) << up)


def integer_matmul(signal: Tensor, weight: Tensor) -> Tensor:
    """Return the product of integers ``signal`` [B, C] and ``weight`` [C, N]; computed in float64, which is exact here."""
    return (signal.double() @ weight.double()).long()
