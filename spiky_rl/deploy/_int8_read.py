"""Quantisation of a trained feed-forward network with the ranges of a rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from spiky_rl.codecs.decoders import first_spike, membrane, population_vector
from spiky_rl.codecs.decoders import linear as last_spikes
from spiky_rl.codecs.decoders import rate as mean_rate
from spiky_rl.codecs.decoders import sigma_delta as sums
from spiky_rl.codecs.encoders import concat, delta, direct, latency, population, rate, sigma_delta
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.connections import linear
from spiky_rl.connections._quantization import compute_scales, quantize
from spiky_rl.deploy._calibration import ValueRanges
from spiky_rl.deploy._int8_arithmetic import (
    CURRENT_LIMIT,
    DECAY_BITS,
    NARROW_LIMIT,
    ONE_BITS,
    SUM_LIMIT,
    WIDE_LIMIT,
)
from spiky_rl.deploy._int8_layers import (
    FIELD_BITS,
    REAL_BITS,
    REAL_LIMIT,
    TABLE_BITS,
    Int8Encoder,
    Int8Format,
    Int8Layer,
    Int8QuadraticLayer,
    Int8Readout,
    Int8SigmaDeltaLayer,
    Int8SpikingLayer,
)
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy.base import ExportError
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.neurons import alif, quadratic
from spiky_rl.neurons import sigma_delta as changes

ENCODERS = {
    direct.Direct: "direct",
    sigma_delta.SigmaDeltaEncoder: "sigma_delta",
    delta.Delta: "delta",
    rate.RateEncoder: "rate",
    latency.Latency: "latency",
    population.Population: "population",
    concat.ConcatEncoder: "concat",
}
DECODERS = {
    membrane.Membrane: "membrane", mean_rate.RateDecoder: "rate", population_vector.PopulationVector: "rate",
    last_spikes.LinearDecoder: "linear", sums.SigmaDeltaDecoder: "sigma_delta", first_spike.FirstSpike: "first_spike",
}  # fmt: skip
OBSERVED_ROOM, STATE_ROOM = 4.0, 2.0
"""Headroom: an observation and a state are clamped at this multiple of their range in the rollout."""
MIN_LEAK = 32
"""Smallest leak of a membrane at its threshold in a step, in the membrane's smallest unit, for which 16 bits are enough."""
MAX_TRACE_ERROR = 2.0**-5
"""Largest value, in spikes, at which rounding may stop the decay of a trace."""
MAX_CHANNELS = 2**16
"""Number of channels from which an event's 16-bit index overflows."""
DELTA_STEPS = 256
"""Integer of the delta encoder's threshold."""
NOISE = 2.0**16
"""Integer of a probability of 1."""
FIELD_ENTRIES, FIELD_REACH = 32, 5
"""Receptive fields: entries of the table per standard deviation, and largest distance in standard deviations."""
TABLE_START, TABLE_ENTRIES = -24.0, 1056
"""Quadratic neurons: smallest argument in the table of tan(sqrt(z)) / sqrt(z), and number of its intervals."""


class StageFields(TypedDict):
    """The fields of an `Int8Stage` that are given to every kind of layer."""

    source: Int8Format
    weight: Tensor
    recurrent_weight: Tensor | None
    title: str


def require_known(network: SpikingNetwork) -> FeedForward:
    """Return ``network`` as a `FeedForward`. Raises ExportError if a rule has graded spikes or a layer has too many channels."""
    assert isinstance(network, FeedForward)
    for layer in network.layers:
        if layer.neuron.graded and not layer.neuron.source_neuron.graded:
            raise ExportError("c_int8: agent.network.learning: no int8 implementation of graded spikes")
        if (channels := _get_linear(layer).in_features) >= MAX_CHANNELS:
            raise ExportError(
                f"c_int8: inputs of a layer: {channels} given; allowed: at most {MAX_CHANNELS - 1}"
            )
    return network


def _get_linear(layer: SpikingLayer) -> linear.LinearConnection:
    assert isinstance(layer.connection, linear.LinearConnection)
    return layer.connection


def quantize_network(network: FeedForward, ranges: ValueRanges) -> IntegerNetwork:
    """Quantise ``network``: weights of 8 bits, states in fixed point that fits ``ranges``.

    The network must have passed `CInt8.check_network` and `require_known`.
    """
    matrices = []
    for layer in network.layers:
        links = [layer.connection, *([] if layer.recurrent is None else [layer.recurrent])]
        matrices.append([link.synapses().detach().cpu() for link in links])
    matrices.append([network.decoder.synapses().t().detach().cpu()])
    rounded = [_round_weights(weights) for weights in matrices]
    largest = [max(1, int(weights[0].abs().sum(0).max())) for weights, _ in rounded]
    encoding, source = _quantize_encoder(network, ranges, largest[0])
    stages: list[Int8Layer] = []
    for i, layer in enumerate(network.layers):
        weights, unit = rounded[i]
        recurrent_weight = weights[1] if layer.recurrent is not None else None
        part: StageFields = {
            "source": source,
            "weight": weights[0],
            "recurrent_weight": recurrent_weight,
            "title": f"layer {i}: {layer.width} neurons",
        }
        stages.append(_quantize_layer(layer, part, unit, ranges.states[i], largest[i + 1]))
        source = stages[-1].output_format
    readout = _quantize_readout(network, rounded[-1], source, largest[-1])
    return IntegerNetwork(network, encoding, stages, readout, ranges.source)


def _quantize_layer(
    layer: SpikingLayer, part: StageFields, unit: Tensor, seen: Tensor, next_largest: int
) -> Int8Layer:
    """Quantise the neurons of ``layer``; ``unit``: of its weights, ``seen``: largest states, ``next_largest``: sum of the next weights."""
    params = {
        name: torch.as_tensor(value).detach().cpu().double().expand(layer.width)
        for name, value in zip(layer.neuron.params, layer.parameters_of_neuron(), strict=True)
    }
    bias = _get_linear(layer).bias.detach().cpu().double()
    if isinstance(layer.neuron.source_neuron, changes.SigmaDeltaNeuron):
        return _quantize_sigma_delta(layer, part, unit, bias, params, seen, next_largest)
    if isinstance(layer.neuron.source_neuron, quadratic.Quadratic):
        return _quantize_quadratic(layer, part, unit, bias, params)
    return _quantize_spiking(layer, part, unit, bias, params, seen)


def _round_weights(weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Round matrices [*, N] with the same postsynaptic neurons; return the integers and their common unit [N]."""
    for weight in weights:
        if not weight.isfinite().all():
            raise ExportError(f"a weight is {float(weight[~weight.isfinite()][0])}; weights must be finite")
    unit = compute_scales(*weights)
    return [quantize(weight, unit).long() for weight in weights], unit.double()


def _quantize_encoder(
    network: FeedForward, ranges: ValueRanges, largest: int
) -> tuple[Int8Encoder, Int8Format]:
    # a change of a value is at most twice as large as the value
    halves = 1 if isinstance(network.encoder, direct.Direct) else 2
    limit = min(NARROW_LIMIT, SUM_LIMIT // largest) // halves
    exponent = _choose_exponent(limit, OBSERVED_ROOM * ranges.observed, 14)
    graded = not network.encoder.binary
    has_spikes = graded and any(
        part.binary for part in network.encoder.modules() if isinstance(part, Encoder)
    )
    source = Int8Format(True, exponent, halves * limit) if graded else Int8Format(False)
    spike = 2**exponent if has_spikes and exponent >= 0 else 1
    if has_spikes and not 0 <= exponent <= 14:
        raise ExportError("c_int8: agent.network.encoder: spikes beside values beyond the range of 16 bits")
    return _quantize_part(network, network.encoder, limit, exponent, spike), source


def _quantize_part(network: FeedForward, encoder: Any, limit: int, exponent: int, spike: int) -> Int8Encoder:
    """Quantise an encoder; ``limit`` and ``exponent``: of graded channels, ``spike``: integer of a spike."""
    kind, width = ENCODERS[type(encoder)], encoder.width
    factor = torch.full((network.inputs,), 2.0**exponent)
    if kind == "concat":
        parts = [
            _quantize_part(network, part, limit, exponent, spike) for part in (encoder.first, encoder.second)
        ]
        return Int8Encoder(kind, width, factor, limit, parts=parts)
    if kind == "delta":
        factor = torch.full((network.inputs,), DELTA_STEPS / encoder.threshold)
        first = len(encoder.state_sizes) > 1 and network.stateful
        return Int8Encoder(kind, width, factor, WIDE_LIMIT, DELTA_STEPS, first, spike=spike)
    if kind == "rate":
        factor = torch.full((network.inputs,), NOISE * encoder.max_rate / encoder.span)
        noise = (encoder.noise.detach().cpu() * NOISE).floor().long()
        return Int8Encoder(kind, width, factor, round(NOISE * encoder.max_rate), noise=noise, spike=spike)
    if kind in ("population", "latency"):
        return _quantize_fields(network, encoder, kind, spike)
    threshold = 0 if kind == "direct" else round(encoder.threshold * 2.0**exponent)
    return Int8Encoder(kind, width, factor, limit, threshold)


def _quantize_fields(network: FeedForward, encoder: Any, kind: str, spike: int) -> Int8Encoder:
    """Quantise receptive fields: an integer distance to the centre, and a table of the activity by distance."""
    steps = 2**FIELD_BITS * FIELD_ENTRIES  # of a distance of one standard deviation
    limit = FIELD_REACH * steps - 1
    centre, noise, cutoff, span = encoder.centre.detach().cpu().double(), None, 0, math.inf
    if kind == "latency":
        width = torch.full((network.inputs, len(centre)), 1.0 / encoder.scale, dtype=torch.float64)
        cutoff, span = max(1, round(encoder.cutoff * 2**ONE_BITS)), encoder.span
    else:
        width = encoder.log_deviation.detach().cpu().double().exp()
        if encoder.mode == "poisson":
            noise = (encoder.noise.detach().cpu() * 2**ONE_BITS).floor().long()
    distance = torch.arange(FIELD_REACH * FIELD_ENTRIES + 1, dtype=torch.float64) / FIELD_ENTRIES
    table = ((-0.5 * distance.square()).exp() * 2**ONE_BITS).round().long()
    factor = (steps / width).float()
    offset = (centre * steps / width).float()
    return Int8Encoder(
        kind, encoder.width, factor, limit, cutoff,
        noise=noise, offset=offset, table=table, span=span, spike=spike,
    )  # fmt: skip


def _choose_exponent(limit: float, size: float, most: int) -> int:
    """Return the largest exponent, from -16 to ``most``, with size * 2^exponent <= limit."""
    return most if size <= 0.0 else max(-16, min(most, math.floor(math.log2(limit / size))))


def _quantize_spiking(
    layer: SpikingLayer,
    part: StageFields,
    unit: Tensor,
    bias: Tensor,
    params: dict[str, Tensor],
    seen: Tensor,
) -> Int8SpikingLayer:
    neuron, decay = layer.neuron, params["tau"]
    if neuron.chosen["input_gain"] == "ode":
        unit, bias = unit * (1.0 - decay), bias * (1.0 - decay)
    source, threshold = part["source"], params["threshold"]
    adaptation = params.get("adaptation", torch.zeros_like(unit))
    reach = torch.maximum(seen.double(), threshold + adaptation)
    largest = torch.ones(layer.width, dtype=torch.int64)  # sum of the weights of spikes
    if not source.graded:
        largest = largest + part["weight"].abs().sum(0)
    if part["recurrent_weight"] is not None:
        largest = largest + part["recurrent_weight"].abs().sum(0)

    def fraction(state: int, room: float, most: int) -> Tensor:
        bits = torch.minimum((state / (room * reach / unit)).log2(), (CURRENT_LIMIT / largest).log2()).floor()
        return bits.clamp(-16, most).long()

    narrow = fraction(NARROW_LIMIT, STATE_ROOM, 8)
    leak = threshold / unit * 2.0**narrow * (1.0 - decay)
    raised = adaptation / unit * 2.0**narrow
    is_wide = bool((narrow < 0).any() or (leak < MIN_LEAK).any() or (raised >= 2**16).any())
    bits = fraction(WIDE_LIMIT, 2.0 * STATE_ROOM, 12).clamp(min=0) if is_wide else narrow
    own_unit = unit * 2.0**-bits
    trace_decay = params.get("tau_adaptation", torch.zeros_like(unit))
    most_trace = float(1.0 / (1.0 - trace_decay.max().clamp(max=1.0 - 1e-6))) + 1.0
    trace_bits = _choose_exponent(NARROW_LIMIT, most_trace, 12)
    is_trace_wide = (
        is_wide
        or trace_bits < 4
        or float((0.5 / (1.0 - trace_decay)).max()) * 2.0**-trace_bits > MAX_TRACE_ERROR
    )
    return Int8SpikingLayer(
        **part,
        unit=unit,
        bias=_round_current(bias / own_unit),
        has_adaptation=isinstance(neuron.source_neuron, alif.Alif),
        resets_to_zero=neuron.chosen["reset"] == "zero",
        is_wide=is_wide,
        fraction=bits,
        threshold=_round_current(threshold / own_unit).clamp(min=1),
        decay=(decay * 2 ** DECAY_BITS[is_wide]).round().long(),
        is_trace_wide=is_trace_wide,
        trace_fraction=16 if is_trace_wide else trace_bits,
        trace_decay=(trace_decay * 2 ** DECAY_BITS[is_trace_wide]).round().long(),
        adaptation=_round_current(adaptation / own_unit),
    )


def _quantize_sigma_delta(
    layer: SpikingLayer,
    part: StageFields,
    unit: Tensor,
    bias: Tensor,
    params: dict[str, Tensor],
    seen: Tensor,
    next_largest: int,
) -> Int8SigmaDeltaLayer:
    own_unit = unit * part["source"].unit
    is_rectified = layer.neuron.chosen["activation"] == "relu"
    # an event is a difference of two values
    limit = min(NARROW_LIMIT, SUM_LIMIT // next_largest) // (1 if is_rectified else 2)
    exponent = _choose_exponent(limit, STATE_ROOM * float(seen.max()), 14)
    threshold = (params["threshold"] * 2.0**exponent).round().long()
    if (threshold < 1).any():
        raise ExportError(
            f"c_int8: {part['title']}: threshold {float(params['threshold'].min()):.3g} is below the resolution of 16 bits for values"
            f" up to {float(seen.max()):.3g}"
        )
    ratio = own_unit * 2.0**exponent
    shift = max(1, min(62, 30 - math.ceil(math.log2(float(ratio.max())))))
    return Int8SigmaDeltaLayer(
        **part,
        unit=own_unit,
        bias=_round_current(bias / own_unit),
        is_rectified=is_rectified,
        sent_format=Int8Format(True, exponent, limit),
        threshold=threshold,
        factor=(ratio * 2.0**shift).round().long().clamp(max=2**31 - 1),
        shift=shift,
    )


def _quantize_quadratic(
    layer: SpikingLayer, part: StageFields, unit: Tensor, bias: Tensor, params: dict[str, Tensor]
) -> Int8QuadraticLayer:
    if part["source"].graded and part["recurrent_weight"] is not None:
        raise ExportError(
            "c_int8: agent.network.recurrent: not available for quadratic neurons with graded input"
        )
    own_unit = unit * part["source"].unit
    step_size, half = layer.neuron.dt / params["tau"], 0.5 * params["critical"]
    real, top = 2.0**REAL_BITS, quadratic.MAX_ANGLE**2
    interval = (top - TABLE_START) / TABLE_ENTRIES
    z = TABLE_START + interval * torch.arange(TABLE_ENTRIES + 2, dtype=torch.float64)
    root = z.clamp(max=top).abs().sqrt().clamp(min=1e-9)
    ratio = torch.where(z > 0, root.tan() / root, root.tanh() / root).where(
        z.abs() > 1e-12, torch.ones(()).double()
    )
    # position = (z - TABLE_START) / interval with z = (current - half^2) step^2
    scale = 2.0**TABLE_BITS / interval
    largest_ratio = own_unit * real
    shift = max(1, min(62, 30 - math.ceil(math.log2(float(largest_ratio.max())))))
    return Int8QuadraticLayer(
        **part,
        unit=own_unit,
        bias=(bias * real).round().clamp(-REAL_LIMIT, REAL_LIMIT).long(),
        factor=(largest_ratio * 2.0**shift).round().long().clamp(max=2**31 - 1),
        shift=shift,
        step_size=(step_size * real).round().long(),
        half=(half * real).round().long(),
        slope=(step_size.square() * scale).round().long().clamp(max=2**28),
        start=((-half.square() * step_size.square() - TABLE_START) * scale)
        .round()
        .long()
        .clamp(-(2**28), 2**28),
        peak=torch.full_like(unit, layer.neuron.chosen["peak"] * real).round().long(),
        reset=torch.full_like(unit, layer.neuron.chosen["reset"] * real).round().long(),
        table=(ratio * real).round().long(),
        least=max(1, round(quadratic.MIN_DENOMINATOR * real)),
    )


def _quantize_readout(
    network: FeedForward, rounded: tuple[list[Tensor], Tensor], source: Int8Format, largest: int
) -> Int8Readout:
    decoder: Any = network.decoder
    kind, (weight, scale) = DECODERS[type(decoder)], (rounded[0][0], rounded[1])
    scale, decay, fraction = scale * source.unit, 0, 0
    most = largest * (source.limit if source.graded else 1) * 2
    if kind == "membrane":
        decay = round(decoder.decay * 2 ** DECAY_BITS[True])
        fraction = max(0, _choose_exponent(WIDE_LIMIT, most / (1.0 - decoder.decay), 12))
        scale = scale * (1.0 - decoder.decay) * 2.0**-fraction
    steps = network.steps
    if kind in ("rate", "first_spike"):
        scale = scale / steps
        if steps * most > 2 * WIDE_LIMIT:
            raise ExportError(
                f"c_int8: agent.network.steps: {steps} given; the sums of so many inner steps exceed 32 bits"
            )
    if kind == "membrane" and decoder.which == "mean":
        scale = scale / steps
    read = decoder.which if kind == "membrane" else ""
    bias = decoder.readout.bias.detach().cpu().float()
    return Int8Readout(kind, read, source, weight, scale.float(), bias, decay, fraction)


def _round_current(x: Tensor) -> Tensor:
    return x.round().clamp(-CURRENT_LIMIT, CURRENT_LIMIT).long()
