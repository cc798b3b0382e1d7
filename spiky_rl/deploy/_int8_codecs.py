"""Encoder and decoder of a quantised network: their integers, and their arithmetic, which runs in torch and is printed as C."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._int8_arithmetic import ACTIVITY_BITS, DECAY_BITS, NARROW_LIMIT, SUM_LIMIT, WIDE_LIMIT
from spiky_rl.deploy._int8_layers import Int8Format, choose_exponent
from spiky_rl.deploy.base import ExportError, get_entry_name, list_encoders
from spiky_rl.networks.feedforward import FeedForward

OBSERVATION_HEADROOM = 4.0
"""Headroom: an observation is clamped at this multiple of its range in the rollout."""
DELTA_THRESHOLD = 256
"""Integer of the delta encoder's threshold."""
PROBABILITY_ONE = 2.0**16
"""Integer of a probability of 1."""
FIELD_BITS = 5
"""Fraction bits of a distance between two entries of a receptive field's table."""
FIELD_ENTRIES, FIELD_REACH = 32, 5
"""Receptive fields: entries of the table per standard deviation, and largest distance in standard deviations."""


class Int8Encoder:
    """An encoder: rounds normalised observations to integers and makes channels of them.

    `round_observation` and `prepare` run once in a control step for each value, `send` in every inner step for each channel. On tensors
    they run, on `Term`s they print themselves as C; ``c`` has the constants: it is the encoder, or their names in C.

    Attributes:
        fields: Number of values of an observation, P; more than 1 for receptive fields.
        factor: Factor of an observation before it is rounded, [O] float; of receptive fields [O P].
        limit: Largest rounded observation.
        threshold: sigma_delta: smallest change that is sent; delta: change per spike; latency: smallest activity that spikes.
        noise: rate, population: the noise that probabilities are compared with, [K, C] integers.
        centre: Receptive fields: their centres in the unit of a rounded observation, [O P] float.
        table: Receptive fields: activity by distance to the centre, [D] integers.
        span: latency: bound to which observations are clipped.
        spike: Integer of a spike; more than 1 beside graded channels.
        state_types: C type of each state by name.
    """

    def __init__(self, encoder: Any, network: FeedForward, limit: int, exponent: int, spike: int) -> None:
        """Quantise an ``encoder`` of ``network``; ``limit`` and ``exponent``: of graded channels."""
        self.kind, self.width, self.limit, self.spike = get_entry_name(encoder), encoder.width, limit, spike
        self.threshold, self.fields, self.steps, scale = 0, 1, network.steps, 2.0**exponent
        self.noise: Tensor | None = None
        self.state_sizes, self.state_types = encoder.state_sizes, dict[str, str]()
        if self.kind == "delta":
            scale = DELTA_THRESHOLD / encoder.threshold
            self.limit, self.threshold = WIDE_LIMIT, DELTA_THRESHOLD
            self.state_types = {"reference": "int32_t"}
            # the reference starts at the first observation
            if len(self.state_sizes) > 1 and network.stateful:
                self.state_types["begun"] = "uint8_t"
        elif self.kind == "rate":
            scale = PROBABILITY_ONE * encoder.max_rate / encoder.span
            self.limit = round(PROBABILITY_ONE * encoder.max_rate)
            self.noise = (encoder.noise.detach().cpu() * PROBABILITY_ONE).floor().long()
        elif self.kind == "sigma_delta":
            self.threshold, self.state_types = round(encoder.threshold * scale), {"reference": "int16_t"}
        self.factor = torch.full((network.inputs,), scale)
        if self.kind in ("population", "latency"):
            self._quantize_fields(encoder)

    def _quantize_fields(self, encoder: Any) -> None:
        """Quantise receptive fields: an integer distance to the centre, and a table of the activity by distance."""
        steps = 2**FIELD_BITS * FIELD_ENTRIES  # of a distance of one standard deviation
        self.limit, self.fields = FIELD_REACH * steps - 1, self.width // len(self.factor)
        if self.kind == "latency":
            shape = len(self.factor), self.fields
            deviation = torch.full(shape, 1.0 / encoder.scale, dtype=torch.float64)
            self.threshold, self.span = max(1, round(encoder.cutoff * 2**ACTIVITY_BITS)), encoder.span
        else:
            deviation = encoder.log_deviation.detach().cpu().double().exp()
            if encoder.mode == "poisson":
                self.noise = (encoder.noise.detach().cpu() * 2**ACTIVITY_BITS).floor().long()
        distance = torch.arange(FIELD_REACH * FIELD_ENTRIES + 1, dtype=torch.float64) / FIELD_ENTRIES
        self.table = ((-0.5 * distance.square()).exp() * 2**ACTIVITY_BITS).round().long()
        self.factor = (steps / deviation).float().flatten()
        self.centre = (encoder.centre.detach().cpu().double() * steps / deviation).float().flatten()

    @property
    def is_constant(self) -> bool:
        """Whether the signal is the same in all inner steps."""
        return self.kind == "direct"

    @property
    def is_graded(self) -> bool:
        """Whether a channel is a value; else it sends spikes."""
        return self.kind in ("direct", "sigma_delta")

    @property
    def is_signed(self) -> bool:
        """Whether each value has a second channel, for the spikes of its negative."""
        return self.kind in ("delta", "rate")

    def round_observation(self, x: Any, c: Any) -> Any:
        """Return the integer of an observation ``x``: its distance to the centre, if there are receptive fields."""
        if self.kind == "latency":
            x = op.clip(x, self.span)
        x = x * c.factor - c.centre if self.fields > 1 else x * c.factor
        return op.name(op.round_clamped(x, self.limit), "x")

    def prepare(self, x: Any, states: Sequence[Any], c: Any) -> tuple[Any, Sequence[Any]]:
        """Return the value of a rounded observation ``x`` for the inner steps, and the new states."""
        if self.kind == "sigma_delta":
            event, reference = op.send_change(x, states[0], self.threshold)
            return event, [reference]
        if self.kind == "delta":
            reference, begun = states[0], states[1 : len(self.state_types)]
            if begun:
                reference = op.name(op.select(begun[0], reference, x), "reference")
            count = op.name(op.divide(x - reference, self.threshold, 0, self.steps), "count")
            return count, [reference + count * self.threshold, *(op.fill(state, 1) for state in begun)]
        if self.fields > 1:
            x = op.name(op.interpolate(op.take_absolute(x), c.table, FIELD_BITS), "activity")
        if self.kind == "latency":  # the inner step of the spike, -1 without one
            time = op.shift((-x + (1 << ACTIVITY_BITS)) * (self.steps - 1), ACTIVITY_BITS)
            x = op.select(x >= self.threshold, time, -1)
        return x, states

    def send(self, value: Any, k: Any, noise: Any) -> Any:
        """Return what a channel of ``value`` sends in the inner step ``k``; ``noise``: the channel's, None without."""
        if self.is_graded:
            return value * (k == 0)
        if noise is not None:
            return op.as_integer(noise < value)
        if self.kind == "delta":
            return op.as_integer(value > k)
        if self.kind == "latency":
            return op.is_equal(value, k)
        # the spikes in which the integral of the activity changes
        return ((value * (k + 1)) >> ACTIVITY_BITS) - ((value * k) >> ACTIVITY_BITS)

    def __call__(self, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Encode an observation [B, O]; return the signal [B, C] of every inner step, or one if it is constant, and the new state."""
        rounded = self.round_observation(x.repeat_interleave(self.fields, -1), self)
        value, new = self.prepare(rounded, states, self)
        value = torch.cat([value, -value], -1) if self.is_signed else value
        spike, rows = 1 if self.is_graded else self.spike, self.noise
        noise = [None] * (1 if self.is_constant else self.steps) if rows is None else rows
        return [self.send(value, k, row) * spike for k, row in enumerate(noise)], new


def encode(
    encoders: Iterable[Int8Encoder], x: Tensor, states: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Encode an observation [B, O] by ``encoders``; return the signals side by side, as `Int8Encoder` does, and the new states."""
    signals, new, remaining = [], list[Tensor](), iter(states)
    for encoder in encoders:
        signal, state = encoder(x, list(itertools.islice(remaining, len(encoder.state_sizes))))
        signals.append(signal)
        new += state
    count = max(map(len, signals))  # a constant signal has one element, which is repeated
    return [torch.cat([signal[k % len(signal)] for signal in signals], -1) for k in range(count)], new


def quantize_encoder(
    network: FeedForward, observed: float, largest: int
) -> tuple[dict[str, Int8Encoder], Int8Format]:
    """Quantise the encoder of ``network``; return its parts by the prefix of their names in C, and the format of their signal.

    Args:
        observed: Largest normalised observation in the rollout.
        largest: Largest sum of weights to a neuron of the first layer.
    """
    encoder, parts = network.encoder, dict(list_encoders("encoder", network.encoder))
    # a change of a value is at most twice as large as the value
    halves = 1 if get_entry_name(encoder) == "direct" else 2
    limit = min(NARROW_LIMIT, SUM_LIMIT // largest) // halves
    exponent, spike = choose_exponent(limit, OBSERVATION_HEADROOM * observed, 14), 1
    if not encoder.binary and any(part.binary for part in parts.values()):
        if not 0 <= exponent <= 14:
            raise ExportError(
                "c_int8: agent.network.encoder: spikes beside values beyond the range of 16 bits"
            )
        spike = 2**exponent
    source = Int8Format(False) if encoder.binary else Int8Format(True, exponent, halves * limit)
    return {path: Int8Encoder(part, network, limit, exponent, spike) for path, part in parts.items()}, source


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

    @property
    def start(self) -> int:
        """Value of `read_total` before the first inner step."""
        return -WIDE_LIMIT if self.read == "max" else 0

    def integrate(self, total: Any, drive: Any) -> Any:
        """Return the new total after an inner step with the input ``drive``."""
        if self.kind == "sigma_delta":
            return op.clamp(total + drive, 2 * WIDE_LIMIT)
        if self.kind != "membrane":
            return total + drive
        leaked = op.multiply(total, self.decay, DECAY_BITS[True], WIDE_LIMIT)
        return op.clamp(leaked + drive * (1 << self.fraction), WIDE_LIMIT)

    def read_total(self, result: Any, total: Any) -> Any:
        """Return the result after an inner step that ends with ``total``; ``result``: the one before it."""
        if self.read == "max":
            return op.select(result < total, total, result)
        return result + total if self.read == "mean" else total

    def __call__(self, events: list[Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the last layer's outputs [B, N] of every inner step; return features [B, F] and the new state."""
        if self.kind == "first_spike":  # a neuron counts in all inner steps from its first spike on
            events = list(torch.stack(events).cummax(0).values)
        sums = [op.integer_matmul(event, self.weight) for event in events]
        total = states[0] if states else torch.zeros_like(sums[0])
        result = torch.full_like(sums[0], self.start)
        for drive in sums[-1:] if self.kind == "linear" else sums:
            total = self.integrate(total, drive)
            result = self.read_total(result, total)
        return result.float() * self.scale + self.bias, [total] * len(states)
