"""Encoder and decoder of a quantised network: their integers, and their arithmetic, which runs in torch and is printed as C."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, override

import torch
from torch import Tensor

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
    """Base of the encoders, which round normalised observations to integers and make channels of them.

    `round_observation` and `prepare` run once in a control step, `send` in every inner step. They are written once: on tensors they
    run, on `Term`s they print themselves as C. ``c`` has the constants: it is the encoder, or their names in C.

    Attributes:
        factor: Factor of an observation before it is rounded, [O] float; of receptive fields [O P].
        fields: Number of values of an observation, P; 1 without receptive fields.
        limit: Largest rounded observation.
        noise: rate, population: the noise that probabilities are compared with, [K, C] integers.
        spike: Integer of a spike; more than 1 beside graded channels.
    """

    is_graded = False
    """Whether it sends its values, in the first inner step."""
    is_constant = False
    """Whether it sends its values in all inner steps."""
    is_signed = False
    """Whether it has a second channel for each value, which sends spikes of its negative."""
    content = ("", "")
    """Name and description of the array of its values, which are prepared for the inner steps."""
    state_types: Mapping[str, str] = {}
    """C type of each state."""

    def __init__(self, encoder: Any, network: FeedForward, limit: int, exponent: int, spike: int) -> None:
        """Quantise an ``encoder`` of ``network``; ``limit`` and ``exponent``: of graded channels."""
        self.width, self.limit, self.steps, self.fields = encoder.width, limit, network.steps, 1
        self.spike = 1 if self.is_graded else spike
        self.state_sizes: tuple[int, ...] = encoder.state_sizes
        self.noise: Tensor | None = None
        self.factor = torch.full((network.inputs,), 2.0**exponent)
        self.quantize(encoder, network)

    def quantize(self, encoder: Any, network: FeedForward) -> None:
        """Set the constants that ``encoder`` has of its own."""

    def round_observation(self, x: Any, c: Any) -> Any:
        """Return the integer of an observation ``x``."""
        return op.name(op.round_clamped(x * c.factor, self.limit), "x")

    def prepare(self, x: Any, states: Sequence[Any], _c: Any) -> tuple[Any, Sequence[Any]]:
        """Return the value of a rounded observation ``x``, and the new states."""
        return x, states

    def send(self, value: Any, k: Any, _noise: Any) -> Any:
        """Return what a channel of ``value`` sends in the inner step ``k``."""
        return value * (k == 0)

    def __call__(self, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Encode an observation [B, O]; return the signal [B, C] of every inner step, or one if it is constant, and the new states."""
        rounded = self.round_observation(x.repeat_interleave(self.fields, -1), self)
        value, new = self.prepare(rounded, states, self)
        if self.is_signed:
            value = torch.cat([value, -value], -1)
        noise = self.noise if self.noise is not None else [None] * (1 if self.is_constant else self.steps)
        return [self.send(value, k, row) * self.spike for k, row in enumerate(noise)], new


class Int8Direct(Int8Encoder):
    """Observations."""

    is_graded = is_constant = True


class Int8SigmaDelta(Int8Encoder):
    """Changes of an observation that reach a threshold."""

    is_graded = True
    state_types = {"reference": "int16_t"}

    @override
    def quantize(self, encoder: Any, network: FeedForward) -> None:
        self.threshold = round(encoder.threshold * float(self.factor[0]))

    @override
    def prepare(self, x: Any, states: Sequence[Any], _c: Any) -> tuple[Any, Sequence[Any]]:
        event, reference = op.send_change(x, states[0], self.threshold)
        return event, [reference]


class Int8Delta(Int8Encoder):
    """As many spikes as an observation has changed by multiples of a threshold, whose integer is `DELTA_STEPS`."""

    is_signed = True
    content = "counts", "spike counts of the encoder, negative in the second channel"

    @override
    def quantize(self, encoder: Any, network: FeedForward) -> None:
        self.factor = torch.full_like(self.factor, DELTA_STEPS / encoder.threshold)
        self.limit = WIDE_LIMIT
        self.state_types = {"reference": "int32_t"}
        if len(self.state_sizes) > 1 and network.stateful:  # the reference starts at the first observation
            self.state_types["begun"] = "uint8_t"

    @override
    def prepare(self, x: Any, states: Sequence[Any], _c: Any) -> tuple[Any, Sequence[Any]]:
        reference, begun = states[0], states[1:] if "begun" in self.state_types else ()
        if begun:
            reference = op.name(op.select(begun[0], reference, x), "reference")
        count = op.name(op.divide(x - reference, DELTA_STEPS, 0, self.steps), "count")
        return count, [reference + count * DELTA_STEPS, *(op.fill(state, 1) for state in begun)]

    @override
    def send(self, value: Any, k: Any, _noise: Any) -> Any:
        return op.is_above(value, k)


class Int8Rate(Int8Encoder):
    """Spikes whose probability is an observation, in parts of `NOISE`."""

    is_signed = True
    content = "counts", "spike probabilities of the encoder, negative in the second channel"

    @override
    def quantize(self, encoder: Any, network: FeedForward) -> None:
        self.factor = torch.full_like(self.factor, NOISE * encoder.max_rate / encoder.span)
        self.limit = round(NOISE * encoder.max_rate)
        self.noise = (encoder.noise.detach().cpu() * NOISE).floor().long()

    @override
    def send(self, value: Any, k: Any, noise: Any) -> Any:
        return op.is_below(noise, value)


class Int8Fields(Int8Encoder):
    """Receptive fields: an integer distance to the centre, and a table of the activity by distance.

    The kind latency sends one spike, the earlier the larger the activity, if it reaches the ``cutoff``. Fields of the kind population
    spike with the probability ``activity``, or integrate it and fire.

    Attributes:
        centre: Centres in the unit of a rounded observation, [O P] float.
        table: Activity by distance, [D] integers.
        span: latency: bound to which observations are clipped.
        cutoff: latency: smallest activity that spikes; 0 for population.
    """

    content = "activity", "activity of a receptive field"

    @override
    def quantize(self, encoder: Any, network: FeedForward) -> None:
        steps = 2**FIELD_BITS * FIELD_ENTRIES  # of a distance of one standard deviation
        self.limit, self.fields, self.cutoff = FIELD_REACH * steps - 1, encoder.width // network.inputs, 0
        if get_entry_name(encoder) == "latency":
            deviation = torch.full((network.inputs, self.fields), 1.0 / encoder.scale, dtype=torch.float64)
            self.cutoff, self.span = max(1, round(encoder.cutoff * 2**ONE_BITS)), encoder.span
        else:
            deviation = encoder.log_deviation.detach().cpu().double().exp()
            if encoder.mode == "poisson":
                self.noise = (encoder.noise.detach().cpu() * 2**ONE_BITS).floor().long()
        distance = torch.arange(FIELD_REACH * FIELD_ENTRIES + 1, dtype=torch.float64) / FIELD_ENTRIES
        self.table = ((-0.5 * distance.square()).exp() * 2**ONE_BITS).round().long()
        self.factor = (steps / deviation).float().flatten()
        self.centre = (encoder.centre.detach().cpu().double() * steps / deviation).float().flatten()

    @override
    def round_observation(self, x: Any, c: Any) -> Any:
        x = op.clip(x, self.span) if self.cutoff else x
        return op.name(op.round_clamped(x * c.factor - c.centre, self.limit), "distance")

    @override
    def prepare(self, x: Any, states: Sequence[Any], c: Any) -> tuple[Any, Sequence[Any]]:
        activity = op.name(op.interpolate(op.take_size(x), c.table, FIELD_BITS), "value")
        if not self.cutoff:
            return activity, states
        time = op.shift((-activity + (1 << ONE_BITS)) * (self.steps - 1), ONE_BITS)
        return op.select(op.is_at_least(activity, self.cutoff), time, -1), states

    @override
    def send(self, value: Any, k: Any, noise: Any) -> Any:
        if self.cutoff:
            return op.is_equal(value, k)
        if noise is not None:
            return op.is_below(noise, value)
        return ((value * (k + 1)) >> ONE_BITS) - ((value * k) >> ONE_BITS)  # whole parts of the integral


ENCODERS: dict[str, type[Int8Encoder]] = {
    "delta": Int8Delta,
    "direct": Int8Direct,
    "latency": Int8Fields,
    "population": Int8Fields,
    "rate": Int8Rate,
    "sigma_delta": Int8SigmaDelta,
}
"""Class that quantises an encoder, by the encoder's name."""


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


def _list_encoders(path: str, encoder: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path and the encoder of each part of ``encoder`` that is no pair of others."""
    if get_entry_name(encoder) != "concat":
        yield path, encoder
        return
    yield from _list_encoders(f"{path}_first", encoder.first)
    yield from _list_encoders(f"{path}_second", encoder.second)


def quantize_encoder(
    network: FeedForward, observed: float, largest: int
) -> tuple[dict[str, Int8Encoder], Int8Format]:
    """Quantise the encoder of ``network``; return its parts by the prefix of their names in C, and the format of their signal.

    Args:
        observed: Largest normalised observation in the rollout.
        largest: Largest sum of weights to a neuron of the first layer.
    """
    encoder, parts = network.encoder, dict(_list_encoders("encoder", network.encoder))
    # a change of a value is at most twice as large as the value
    halves = 1 if get_entry_name(encoder) == "direct" else 2
    limit = min(NARROW_LIMIT, SUM_LIMIT // largest) // halves
    exponent, spike = choose_exponent(limit, OBSERVED_ROOM * observed, 14), 1
    if not encoder.binary and any(part.binary for part in parts.values()):
        if not 0 <= exponent <= 14:
            raise ExportError(
                "c_int8: agent.network.encoder: spikes beside values beyond the range of 16 bits"
            )
        spike = 2**exponent
    source = Int8Format(False) if encoder.binary else Int8Format(True, exponent, halves * limit)
    return {
        path: ENCODERS[get_entry_name(part)](part, network, limit, exponent, spike)
        for path, part in parts.items()
    }, source


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
            return op.select(op.is_below(result, total), total, result)
        return result + total if self.read == "mean" else total

    def __call__(self, events: list[Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode the last layer's outputs [B, N] of every inner step; return features [B, F] and the new state."""
        if self.kind == "first_spike":  # a neuron counts in all inner steps from its first spike on
            events = list(torch.stack(events).cummax(0).values)
        sums = [op.integer_matmul(event, self.weight) for event in events]
        total, result = states[0] if states else torch.zeros_like(sums[0]), torch.full_like(
            sums[0], self.start
        )
        for drive in sums[-1:] if self.kind == "linear" else sums:
            total = self.integrate(total, drive)
            result = self.read_total(result, total)
        return result.float() * self.scale + self.bias, [total] * len(states)
