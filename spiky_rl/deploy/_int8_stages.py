"""The parts of a network in integers, and their steps as a chip takes them: what ``policy.c`` says, in torch.

Weights are int8 in a unit of their output neuron; what a neuron adds up is a whole number of it. Membranes have ``fraction``
bits below that unit. Everything is held in int64 here and clamped where C clamps, so both are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NARROW, WIDE = 2**15 - 1, 2**29
"""Largest size of a state in 16 and in 32 bits; with what is added in a step, the latter stays below 2^31."""
CURRENT, SUM = 2**28, 2**29
"""Largest current of a step in a membrane's unit, and largest sum of weights times graded inputs: no sum of both wraps."""
DECAY_BITS = {False: 15, True: 30}
"""Bits of a decay, by whether its state is wide."""


@dataclass(frozen=True)
class Int8Format:
    """Format of a signal's integers: spikes, or graded values with their unit."""

    graded: bool
    """False: 0 or 1."""
    exponent: int = 0
    """A value is an integer times 2^-exponent."""
    limit: int = 1
    """Largest size of an integer."""

    @property
    def unit(self) -> float:
        """The value that the integer 1 stands for."""
        return 2.0**-self.exponent


@dataclass
class Int8Encoder:
    """Observations, normalised floats, to integers, and those to the first signal."""

    kind: str
    factor: Tensor
    """Float: what an observation is multiplied with before it is rounded."""
    limit: int
    """Largest integer that comes of that."""
    threshold: int = 0
    """sigma_delta: smallest change that is sent."""
    first: bool = False
    """delta: the reference starts at the first observation."""
    noise: Tensor | None = None
    """rate: [K, C] integers."""

    def __call__(self, x: Tensor, held: list[Tensor], steps: int) -> tuple[list[Tensor], list[Tensor]]:
        """Observation [B, O] -> the signal [B, C] of every inner step, one where it is constant, and the new state."""
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
    """Base of all layers in integers."""

    source: Int8Format
    weight: Tensor
    """[C, N]."""
    within: Tensor | None
    """[D N, N]."""
    unit: Tensor
    """[N] float64: the current that a weight of 1 is, for an input of 1."""
    bias: Tensor
    """[N], in the neuron's own unit."""
    place: str

    @property
    def width(self) -> int:
        """N."""
        return self.weight.shape[1]

    @property
    def delays(self) -> int:
        """D."""
        return 0 if self.within is None else self.within.shape[0] // self.width


@dataclass
class Int8SpikingStage(Int8Stage):
    """LIF and ALIF neurons."""

    adaptive: bool
    zero: bool
    """A spike puts the membrane to 0."""
    wide: bool
    """Membranes have 32 bits."""
    fraction: Tensor
    """[N]: bits of a membrane below the neuron's unit."""
    threshold: Tensor
    decay: Tensor
    trace_wide: bool
    trace_fraction: int
    """Bits of the adaptation's trace below one spike."""
    trace_decay: Tensor
    adaptation: Tensor
    """[N]: what a trace of one spike adds to the threshold."""

    @property
    def output_format(self) -> Int8Format:
        """Format of the signal that the layer sends."""
        return Int8Format(False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: membrane, trace, the last outputs."""
        return (self.width,) * (1 + self.adaptive + self.delays)

    def current(self, signal: Tensor) -> Tensor:
        """``signal`` [B, C] -> what it and the bias add to a membrane, [B, N]."""
        total = integer_matmul(signal, self.weight)
        if not self.source.graded:
            return total * 2**self.fraction + self.bias
        return scale_by_power(total, self.fraction - self.source.exponent) + self.bias

    def __call__(self, current: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One inner step."""
        v, rest, past = held[0], held[1:], held[1 + self.adaptive :]
        if self.within is not None:
            current = current + integer_matmul(torch.cat(past, -1), self.within) * 2**self.fraction
        v = shift_right(v * self.decay, DECAY_BITS[self.wide]) + current
        threshold, after = self.threshold, []
        if self.adaptive:
            trace = shift_right(rest[0] * self.trace_decay, DECAY_BITS[self.trace_wide])
            raised = shift_right(trace * self.adaptation, self.trace_fraction).clamp(max=WIDE)
            threshold = threshold + raised
        spike = (v >= threshold).long()
        v = v * (1 - spike) if self.zero else v - spike * self.threshold
        if self.adaptive:
            most = WIDE if self.trace_wide else NARROW
            after.append((trace + spike * 2**self.trace_fraction).clamp(max=most))
        most = WIDE if self.wide else NARROW
        return spike, [v.clamp(-most, most), *after, *([spike, *past] if self.delays else [])[: self.delays]]

    def potential(self, held: list[Tensor]) -> Tensor:
        """The membrane in the states ``held`` as a float, [B, N]."""
        return (held[0] * self.unit * 2.0**-self.fraction).float()


@dataclass
class Int8SigmaDeltaStage(Int8Stage):
    """Sigma-delta neurons. Their sum is exact; what they send has a unit that all neurons of the layer share."""

    rectified: bool
    output_format: Int8Format
    """What comes out."""
    threshold: Tensor
    factor: Tensor
    """[N]: y is the sum times this, shifted right by ``shift``."""
    shift: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states: sum, what has been sent."""
        return (self.width, self.width)

    def current(self, signal: Tensor) -> Tensor:
        """``signal`` [B, C] -> what it and the bias add to the sum, [B, N]."""
        return integer_matmul(signal, self.weight) + self.bias

    def __call__(self, current: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One inner step."""
        total = (held[0] + current).clamp(-2 * WIDE, 2 * WIDE)
        y = shift_right(total * self.factor, self.shift).clamp(
            -self.output_format.limit, self.output_format.limit
        )
        change = (y.clamp(min=0) if self.rectified else y) - held[1]
        event = change * (change.abs() >= self.threshold)
        return event, [total, held[1] + event]

    def potential(self, held: list[Tensor]) -> Tensor:
        """The sum in the states ``held`` as a float, [B, N]."""
        return (held[0] * self.unit).float()


@dataclass
class Int8Readout:
    """The decoder."""

    kind: str
    """membrane, rate, linear or sigma_delta."""
    read: str
    """What is read of a membrane: last, mean or max."""
    source: Int8Format
    weight: Tensor
    """[N, F]."""
    scale: Tensor
    """[F] float: the value that 1 of the result stands for."""
    bias: Tensor
    """[F] float."""
    decay: int
    fraction: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of the state."""
        return (self.weight.shape[1],) if self.kind in ("membrane", "sigma_delta") else ()

    def __call__(self, events: list[Tensor], held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The last layer's outputs [B, N] of every inner step -> features [B, F] and the new state."""
        sums = [integer_matmul(event, self.weight) for event in events]
        if self.kind == "linear":
            return self._features(sums[-1]), []
        if self.kind == "rate":
            return self._features(torch.stack(sums).sum(0)), []
        total, seen = held[0], []
        for part in sums:
            if self.kind == "membrane":
                total = shift_right(total * self.decay, DECAY_BITS[True]) + part * 2**self.fraction
                total = total.clamp(-WIDE, WIDE)
            else:
                total = (total + part).clamp(-2 * WIDE, 2 * WIDE)
            seen.append(total)
        if self.kind == "sigma_delta" or self.read == "last":
            return self._features(total), [total]
        whole_step = torch.stack(seen)
        potential = whole_step.sum(0) if self.read == "mean" else whole_step.amax(0)
        return self._features(potential), [total]

    def _features(self, total: Tensor) -> Tensor:
        return total.float() * self.scale + self.bias


def round_clamped(x: Tensor, limit: int) -> Tensor:
    """Floats ``x`` as the nearest integers, halves away from 0, no larger than a ``limit``; what is no number is 0."""
    x = x.nan_to_num(nan=0.0, posinf=float(limit), neginf=-float(limit)).clamp(-limit, limit)
    return (x + torch.where(x < 0, -0.5, 0.5)).trunc().long()


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Integers ``x`` divided by 2^``bits``, rounded to the nearest, halves up."""
    return (x + (1 << (bits - 1))) >> bits


def scale_by_power(x: Tensor, bits: Tensor) -> Tensor:
    """Integers ``x`` [B, N] times 2^``bits``, [N] of either sign; rounded, and clamped before they grow."""
    up, down = bits.clamp(min=0), (-bits).clamp(min=0)
    most = CURRENT >> up
    half = torch.where(down > 0, 1 << (down - 1).clamp(min=0), 0)
    return torch.where(down > 0, (x + half) >> down, x.clamp(-most, most) << up)


def integer_matmul(signal: Tensor, weight: Tensor) -> Tensor:
    """Integers ``signal`` [B, C] times integers ``weight`` [C, N]: in float64, which holds every sum exactly."""
    return (signal.double() @ weight.double()).long()
