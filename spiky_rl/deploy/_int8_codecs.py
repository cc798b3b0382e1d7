"""Encoder and decoder of a quantised network: their integers, and how they run in torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._int8_arithmetic import DECAY_BITS, NARROW_LIMIT, ONE_BITS, SUM_LIMIT, WIDE_LIMIT
from spiky_rl.deploy._int8_layers import Int8Format, choose_exponent
from spiky_rl.deploy.base import ExportError, get_entry_name
from spiky_rl.networks.feedforward import FeedForward

OBSERVED_ROOM = 4.0
"""Headroom: an observation is clamped at this multiple of its range in the rollout."""
DELTA_STEPS = 256
"""Integer of the delta encoder's threshold."""
NOISE = 2.0**16
"""Integer of a probability of 1."""
FIELD_BITS = 5
"""Fraction bits of a distance between two entries of a receptive field's table."""
FIELD_ENTRIES, FIELD_REACH = 32, 5
"""Receptive fields: entries of the table per standard deviation, and largest distance in standard deviations."""


class Int8Encoder:
    """An encoder: rounds normalised observations to integers and makes channels of them.

    Attributes:
        factor: Factor of an observation before it is rounded, [O] float; of receptive fields [O, P].
        limit: Largest rounded observation.
        threshold: sigma_delta: smallest change that is sent; delta: change per spike; latency: smallest activity that spikes.
        starts_at_first: delta: whether the reference starts at the first observation.
        noise: rate, population: the noise that probabilities are compared with, [K, C] integers.
        offset: Receptive fields: their centres in the unit of a rounded observation, [O, P] float.
        table: Receptive fields: activity by distance to the centre, [D] integers.
        span: Receptive fields: bound to which observations are clipped.
        spike: Integer of a spike; more than 1 beside graded channels.
        parts: concat: the two encoders.
    """

    def __init__(self, encoder: Any, network: FeedForward, limit: int, exponent: int, spike: int) -> None:
        """Quantise an ``encoder`` of ``network``; ``limit`` and ``exponent``: of graded channels."""
        self.kind, self.width, self.limit, self.spike = get_entry_name(encoder), encoder.width, limit, spike
        self.threshold, self.starts_at_first, self.span = 0, False, math.inf
        self.noise: Tensor | None = None
        self.offset: Tensor | None = None
        self.table: Tensor | None = None
        self.parts: Sequence[Int8Encoder] = ()
        self.states, scale = len(encoder.state_sizes), 2.0**exponent
        if self.kind == "concat":
            parts = (encoder.first, encoder.second)
            self.parts = [Int8Encoder(part, network, limit, exponent, spike) for part in parts]
        elif self.kind == "delta":
            scale, self.limit, self.threshold = DELTA_STEPS / encoder.threshold, WIDE_LIMIT, DELTA_STEPS
            self.starts_at_first = len(encoder.state_sizes) > 1 and network.stateful
        elif self.kind == "rate":
            scale, self.limit = NOISE * encoder.max_rate / encoder.span, round(NOISE * encoder.max_rate)
            self.noise = (encoder.noise.detach().cpu() * NOISE).floor().long()
        elif self.kind == "sigma_delta":
            self.threshold = round(encoder.threshold * scale)
        self.factor = torch.full((network.inputs,), scale)
        if self.kind in ("population", "latency"):
            self._quantize_fields(encoder)

    def _quantize_fields(self, encoder: Any) -> None:
        """Quantise receptive fields: an integer distance to the centre, and a table of the activity by distance."""
        steps = 2**FIELD_BITS * FIELD_ENTRIES  # of a distance of one standard deviation
        self.limit = FIELD_REACH * steps - 1
        centre = encoder.centre.detach().cpu().double()
        if self.kind == "latency":
            shape = (len(self.factor), len(centre))
            deviation = torch.full(shape, 1.0 / encoder.scale, dtype=torch.float64)
            self.threshold, self.span = max(1, round(encoder.cutoff * 2**ONE_BITS)), encoder.span
        else:
            deviation = encoder.log_deviation.detach().cpu().double().exp()
            if encoder.mode == "poisson":
                self.noise = (encoder.noise.detach().cpu() * 2**ONE_BITS).floor().long()
        distance = torch.arange(FIELD_REACH * FIELD_ENTRIES + 1, dtype=torch.float64) / FIELD_ENTRIES
        self.table = ((-0.5 * distance.square()).exp() * 2**ONE_BITS).round().long()
        self.factor = (steps / deviation).float()
        self.offset = (centre * steps / deviation).float()

    @property
    def constant(self) -> bool:
        """Whether the signal is the same in all inner steps."""
        return self.kind == "direct" or (bool(self.parts) and all(part.constant for part in self.parts))

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
        distance = x.clamp(-self.span, self.span).unsqueeze(-1) * self.factor - self.offset
        size = op.take_size(op.round_clamped(distance, self.limit))
        activity = op.interpolate(size, self.table, FIELD_BITS).flatten(-2)
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


def quantize_encoder(network: FeedForward, observed: float, largest: int) -> tuple[Int8Encoder, Int8Format]:
    """Quantise the encoder of ``network``; return it and the format of its signal.

    Args:
        observed: Largest normalised observation in the rollout.
        largest: Largest sum of weights to a neuron of the first layer.
    """
    encoder = network.encoder
    # a change of a value is at most twice as large as the value
    halves = 1 if get_entry_name(encoder) == "direct" else 2
    limit = min(NARROW_LIMIT, SUM_LIMIT // largest) // halves
    exponent = choose_exponent(limit, OBSERVED_ROOM * observed, 14)
    if encoder.binary:
        return Int8Encoder(encoder, network, limit, exponent, spike=1), Int8Format(False)
    has_spikes = any(part.binary for part in encoder.modules() if isinstance(part, Encoder))
    if has_spikes and not 0 <= exponent <= 14:
        raise ExportError("c_int8: agent.network.encoder: spikes beside values beyond the range of 16 bits")
    spike = 2**exponent if has_spikes else 1
    return Int8Encoder(encoder, network, limit, exponent, spike), Int8Format(True, exponent, halves * limit)


class Int8Readout:
    """A decoder of the kind membrane, rate, first_spike, linear or sigma_delta.

    Attributes:
        read: membrane: its value over the inner steps that is read: last, mean or max.
        source: Format of the input.
        weight: [N, F] integers.
        scale: Value of the integer 1 of the result, [F] float.
        bias: [F] float.
    """

    def __init__(
        self, network: FeedForward, weight: Tensor, unit: Tensor, source: Int8Format, largest: int
    ) -> None:
        """Quantise the decoder of ``network``; ``unit``: of the ``weight``, ``largest``: its largest sum to an output."""
        decoder: Any = network.decoder
        self.kind, self.source, self.weight = get_entry_name(decoder), source, weight
        if self.kind == "population_vector":
            self.kind = "rate"
        self.read, self.decay, self.fraction = "", 0, 0
        self.bias = decoder.readout.bias.detach().cpu().float()
        scale = unit * source.unit
        most = largest * (source.limit if source.graded else 1) * 2
        if self.kind == "membrane":
            self.read = decoder.which
            self.decay = round(decoder.decay * 2 ** DECAY_BITS[True])
            self.fraction = max(0, choose_exponent(WIDE_LIMIT, most / (1.0 - decoder.decay), 12))
            scale = scale * (1.0 - decoder.decay) * 2.0**-self.fraction
        sums_steps = self.kind in ("rate", "first_spike")
        if sums_steps and network.steps * most > 2 * WIDE_LIMIT:
            raise ExportError(
                f"c_int8: agent.network.steps: {network.steps} given; the sums of so many inner steps exceed 32 bits"
            )
        if sums_steps or self.read == "mean":
            scale = scale / network.steps
        self.scale = scale.float()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of the state, if the decoder has one."""
        return (self.weight.shape[1],) if self.kind in ("membrane", "sigma_delta") else ()

    def integrate(self, total: Any, drive: Any) -> Any:
        """Return the new state after an inner step with the input ``drive``."""
        if self.kind == "sigma_delta":
            return op.clamp(total + drive, 2 * WIDE_LIMIT)
        leaked = op.multiply(total, self.decay, DECAY_BITS[True], WIDE_LIMIT)
        return op.clamp(leaked + drive * (1 << self.fraction), WIDE_LIMIT)

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
