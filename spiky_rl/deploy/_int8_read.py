"""Quantisation of a trained feed-forward network with the ranges of a rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from spiky_rl.codecs.decoders import linear as last_spikes
from spiky_rl.codecs.decoders import membrane, population_vector
from spiky_rl.codecs.decoders import rate as mean_rate
from spiky_rl.codecs.decoders import sigma_delta as sums
from spiky_rl.codecs.encoders import delta, direct, rate, sigma_delta
from spiky_rl.connections import linear
from spiky_rl.connections._quantization import compute_scales, quantize
from spiky_rl.deploy._calibration import ValueRanges
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy._int8_stages import (
    CURRENT_LIMIT,
    DECAY_BITS,
    NARROW_LIMIT,
    SUM_LIMIT,
    WIDE_LIMIT,
    Int8Encoder,
    Int8Format,
    Int8Readout,
    Int8SigmaDeltaStage,
    Int8SpikingStage,
)  # fmt: skip
from spiky_rl.deploy._program import ExportError
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.neurons import alif
from spiky_rl.neurons import sigma_delta as changes

ENCODERS = {
    direct.Direct: "direct",
    sigma_delta.SigmaDeltaEncoder: "sigma_delta",
    delta.Delta: "delta",
    rate.RateEncoder: "rate",
}
DECODERS = {
    membrane.Membrane: "membrane", mean_rate.RateDecoder: "rate", population_vector.PopulationVector: "rate",
    last_spikes.LinearDecoder: "linear", sums.SigmaDeltaDecoder: "sigma_delta",
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


class StageFields(TypedDict):
    """The fields of an `Int8Stage` that are given to every kind of layer."""

    source: Int8Format
    weight: Tensor
    within: Tensor | None
    place: str


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
    rounded = [_round_weights(each) for each in matrices]
    largest = [max(1, int(weights[0].abs().sum(0).max())) for weights, _ in rounded]
    encoding, source = _quantize_encoder(network, ranges, largest[0])
    stages: list[Int8SpikingStage | Int8SigmaDeltaStage] = []
    for i, layer in enumerate(network.layers):
        weights, unit = rounded[i]
        part: StageFields = {
            "source": source, "weight": weights[0], "within": weights[1] if len(weights) > 1 else None,
            "place": f"layer {i}: {layer.width} neurons",
        }  # fmt: skip
        values = dict(zip(layer.neuron.params, layer.parameters_of_neuron(), strict=True))
        params = {
            name: torch.as_tensor(value).detach().cpu().double().expand(layer.width)
            for name, value in values.items()
        }
        bias = _get_linear(layer).bias.detach().cpu().double()
        if isinstance(layer.neuron.source_neuron, changes.SigmaDeltaNeuron):
            stage: Int8SpikingStage | Int8SigmaDeltaStage = _quantize_sigma_delta(
                layer, part, unit, bias, params, ranges.states[i], largest[i + 1]
            )
        else:
            stage = _quantize_spiking(layer, part, unit, bias, params, ranges.states[i])
        stages.append(stage)
        source = stage.output_format
    readout = _quantize_readout(network, rounded[-1], source, largest[-1])
    return IntegerNetwork(network, encoding, stages, readout, ranges.source)


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
    encoder: Any = network.encoder
    kind = ENCODERS[type(encoder)]
    if kind == "delta":
        factor = torch.full((network.inputs,), DELTA_STEPS / encoder.threshold)
        first = len(encoder.state_sizes) > 1 and network.stateful
        return Int8Encoder(kind, factor, WIDE_LIMIT, DELTA_STEPS, first), Int8Format(False)
    if kind == "rate":
        factor = torch.full((network.inputs,), NOISE * encoder.max_rate / encoder.span)
        noise = (encoder.noise.detach().cpu() * NOISE).floor().long()
        return Int8Encoder(kind, factor, round(NOISE * encoder.max_rate), noise=noise), Int8Format(False)
    # a change of a value is at most twice as large as the value
    limit = min(NARROW_LIMIT, SUM_LIMIT // largest) // (1 if kind == "direct" else 2)
    exponent = _choose_exponent(limit, OBSERVED_ROOM * ranges.observed, 14)
    factor = torch.full((network.inputs,), 2.0**exponent)
    threshold = 0 if kind == "direct" else round(encoder.threshold * 2.0**exponent)
    source = Int8Format(True, exponent, limit * (1 if kind == "direct" else 2))
    return Int8Encoder(kind, factor, limit, threshold), source


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
) -> Int8SpikingStage:
    neuron, decay = layer.neuron, params["tau"]
    if neuron.chosen["input_gain"] == "ode":
        unit, bias = unit * (1.0 - decay), bias * (1.0 - decay)
    source, threshold = part["source"], params["threshold"]
    adaptation = params.get("adaptation", torch.zeros_like(unit))
    reach = torch.maximum(seen.double(), threshold + adaptation)
    sums_of_spikes = [
        each for each in (None if source.graded else part["weight"], part["within"]) if each is not None
    ]
    largest = torch.cat([*sums_of_spikes, torch.ones(1, layer.width, dtype=torch.int64)]).abs().sum(0)

    def fraction(state: int, room: float, most: int) -> Tensor:
        bits = torch.minimum((state / (room * reach / unit)).log2(), (CURRENT_LIMIT / largest).log2()).floor()
        return bits.clamp(-16, most).long()

    narrow = fraction(NARROW_LIMIT, STATE_ROOM, 8)
    leak = threshold / unit * 2.0**narrow * (1.0 - decay)
    raised = adaptation / unit * 2.0**narrow
    wide = bool((narrow < 0).any() or (leak < MIN_LEAK).any() or (raised >= 2**16).any())
    bits = fraction(WIDE_LIMIT, 2.0 * STATE_ROOM, 12).clamp(min=0) if wide else narrow
    own = unit * 2.0**-bits
    trace_decay = params.get("tau_adaptation", torch.zeros_like(unit))
    most_trace = float(1.0 / (1.0 - trace_decay.max().clamp(max=1.0 - 1e-6))) + 1.0
    trace_bits = _choose_exponent(NARROW_LIMIT, most_trace, 12)
    trace_wide = (
        wide
        or trace_bits < 4
        or float((0.5 / (1.0 - trace_decay)).max()) * 2.0**-trace_bits > MAX_TRACE_ERROR
    )
    return Int8SpikingStage(
        **part,
        unit=unit,
        bias=_round_current(bias / own),
        adaptive=isinstance(neuron.source_neuron, alif.Alif),
        zero=neuron.chosen["reset"] == "zero",
        wide=wide,
        fraction=bits,
        threshold=_round_current(threshold / own).clamp(min=1),
        decay=(decay * 2 ** DECAY_BITS[wide]).round().long(),
        trace_wide=trace_wide,
        trace_fraction=16 if trace_wide else trace_bits,
        trace_decay=(trace_decay * 2 ** DECAY_BITS[trace_wide]).round().long(),
        adaptation=_round_current(adaptation / own),
    )


def _quantize_sigma_delta(
    layer: SpikingLayer,
    part: StageFields,
    unit: Tensor,
    bias: Tensor,
    params: dict[str, Tensor],
    seen: Tensor,
    next_largest: int,
) -> Int8SigmaDeltaStage:
    own = unit * part["source"].unit
    rectified = layer.neuron.chosen["activation"] == "relu"
    # an event is a difference of two values
    limit = min(NARROW_LIMIT, SUM_LIMIT // next_largest) // (1 if rectified else 2)
    exponent = _choose_exponent(limit, STATE_ROOM * float(seen.max()), 14)
    threshold = (params["threshold"] * 2.0**exponent).round().long()
    if (threshold < 1).any():
        raise ExportError(
            f"c_int8: {part['place']}: threshold {float(params['threshold'].min()):.3g} is below the resolution of 16 bits for values"
            f" up to {float(seen.max()):.3g}"
        )
    ratio = own * 2.0**exponent
    shift = max(1, min(62, 30 - math.ceil(math.log2(float(ratio.max())))))
    return Int8SigmaDeltaStage(
        **part,
        unit=own,
        bias=_round_current(bias / own),
        rectified=rectified,
        output_format=Int8Format(True, exponent, limit),
        threshold=threshold,
        factor=(ratio * 2.0**shift).round().long().clamp(max=2**31 - 1),
        shift=shift,
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
    if kind == "rate":
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
