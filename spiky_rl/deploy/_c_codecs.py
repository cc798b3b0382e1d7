"""Encoders and decoders in C: statements before, in and after the inner steps that set the channels of a signal, or the features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from spiky_rl.config import registry
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._c_writer import CWriter, Signal
from spiky_rl.deploy.base import ExportError, get_entry_name, list_encoders
from spiky_rl.kernels.emit import format_literal


def write_encoder(w: CWriter, encoder: Any, x: Signal) -> Signal:
    """Write ``encoder`` of the observation ``x`` and return its signal. Raises ExportError if it has no form in C."""
    if get_entry_name(encoder) == "direct":
        return x
    kind = "uint8_t" if encoder.binary else "float"
    name = type(encoder).__name__
    w.write_comment(f"encoder: {name}, {encoder.width} channels")
    w.write_comment(f"encoder: {name}", w.once)
    array = w.add_scratch("encoder", encoder.width, "signal of the encoder in an inner step", kind)
    signal = Signal(array, encoder.width, kind)
    for path, part, out in split_channels(signal, list_encoders("encoder", encoder)):
        _get_writer("encoder", part, ENCODERS)(w, path, part, x, out)
    return signal


def split_channels(signal: Signal, encoders: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any, Signal]]:
    """Yield the path and the encoder of ``encoders``, whose channels lie side by side in ``signal``, and its part of the signal."""
    first = 0
    for path, encoder in encoders:
        yield path, encoder, replace(signal, first=first)
        first += encoder.width


def _get_writer(key: str, part: Any, writers: dict[str, Any]) -> Any:
    if (name := get_entry_name(part)) not in writers:
        names = ", ".join(registry.list_names(f"{key}s"))
        raise ExportError(f"agent.network.{key}: no form in C; allowed: {names}")
    return writers[name]


def _encode_direct(w: CWriter, _path: str, _encoder: Any, x: Signal, out: Signal) -> None:
    w.write_loop(w.once, "c", x.width, f"{out.get('c')} = {x.array}[c];")


def _encode_delta(w: CWriter, path: str, encoder: Any, x: Signal, out: Signal) -> None:
    threshold, steps = format_literal(encoder.threshold), format_literal(float(w.steps))
    count = w.add_scratch(f"{path}_count", x.width, "events of an observation in this control step")
    reference = w.add_state(f"{path}_reference", x.width, "receiver's copy of an observation")
    larger, smaller = w.use_function("larger"), w.use_function("smaller")
    change = f"({x.array}[c] - {reference}[c]) / {threshold}"
    lines = [
        f"{count}[c] = (float)(int){smaller}({larger}({change}, -{steps}), {steps});",
        f"{reference}[c] = {reference}[c] + {threshold} * {count}[c];",
    ]
    if len(encoder.state_sizes) > 1 and w.stateful:  # else every control step begins at a reference of 0
        begun = w.add_state(f"{path}_begun", 1, "1 once the episode has begun")
        start = f"if (!({begun}[0] > 0.0f)) {reference}[c] = {x.array}[c];"
        w.write_loop(w.once, "c", x.width, start, *lines)
        w.once.append(f"{begun}[0] = 1.0f;")
    else:
        w.write_loop(w.once, "c", x.width, *lines)
    positive = out.assign("c", f"({count}[c] > (float)k)")
    negative = out.assign("c", f"(-{count}[c] > (float)k)", x.width)
    w.write_loop(w.step, "c", x.width, positive, negative)


def _encode_sigma_delta(w: CWriter, path: str, encoder: Any, x: Signal, out: Signal) -> None:
    reference = w.add_state(f"{path}_reference", x.width, "receiver's copy of an observation")
    size, sent = f"{w.use_function('absolute')}(change)", out.get("c")
    w.write_loop(
        w.once, "c", x.width,
        f"const float change = {x.array}[c] - {reference}[c];",
        f"{sent} = {size} >= {format_literal(encoder.threshold)} ? change : 0.0f;",
        f"{reference}[c] = {reference}[c] + {sent};",
    )  # fmt: skip
    w.clear_after_first_step(out, x.width)


def _encode_rate(w: CWriter, path: str, encoder: Any, x: Signal, out: Signal) -> None:
    rate = w.add_scratch(f"{path}_rate", x.width, "probability of a spike, negative for the second channel")
    noise = w.add_constant(f"{path}_noise", encoder.noise)
    most, smaller = format_literal(encoder.max_rate), w.use_function("smaller")
    factor = format_literal(encoder.max_rate / encoder.span)
    w.write_loop(w.once, "c", x.width, f"{rate}[c] = {x.array}[c] * {factor};")
    row = f"{noise}[k * {2 * x.width} + "
    positive = out.assign("c", f"({row}c] < {smaller}({rate}[c], {most}))")
    negative = out.assign("c", f"({row}{x.width} + c] < {smaller}(-{rate}[c], {most}))", x.width)
    w.write_loop(w.step, "c", x.width, positive, negative)


def _write_fields(w: CWriter, path: str, x: Signal, fields: int, distance: str) -> str:
    """Write the activities of receptive fields, ``fields`` per observation, and return their array.

    ``distance``: C expression of the normalised distance of observation c to the centre of field j, which is its f-th.
    """
    activity = w.add_scratch(f"{path}_activity", x.width * fields, "activity of a receptive field")
    exponential = w.use_function("exponential")
    inner = w.format_loop(
        "f", fields,
        f"const int j = c * {fields} + f;",
        f"const float distance = {distance};",
        f"{activity}[j] = {exponential}(-0.5f * (distance * distance));",
    )  # fmt: skip
    w.write_loop(w.once, "c", x.width, inner)
    return activity


def _encode_population(w: CWriter, path: str, encoder: Any, x: Signal, out: Signal) -> None:
    centre = w.format_element(f"{path}_centre", encoder.centre, "j")
    deviation = w.format_element(f"{path}_deviation", encoder.log_deviation.exp(), "j")
    distance = f"({x.array}[c] - {centre}) / {deviation}"
    activity = _write_fields(w, path, x, encoder.centre.shape[1], distance)
    if encoder.mode == "poisson":
        noise = w.add_constant(f"{path}_noise", encoder.noise)
        spike = f"({activity}[j] - {noise}[k * {encoder.width} + j] >= 0.0f)"
        w.write_loop(w.step, "j", encoder.width, out.assign("j", spike))
        return
    v = w.add_scratch(f"{path}_v", encoder.width, "charge of a receptive field's neuron")
    w.write_clear(w.once, v, encoder.width)
    w.write_loop(
        w.step, "j", encoder.width,
        f"const float charge = {v}[j] + {activity}[j];",
        "const float spike = charge - 1.0f >= 0.0f ? 1.0f : 0.0f;",
        f"{v}[j] = charge - spike;",
        out.assign("j", "spike"),
    )  # fmt: skip


def _encode_latency(w: CWriter, path: str, encoder: Any, x: Signal, out: Signal) -> None:
    span, scale, silent = (format_literal(n) for n in (encoder.span, encoder.scale, encoder.cutoff))
    larger, smaller = w.use_function("larger"), w.use_function("smaller")
    centre = w.format_element(f"{path}_centre", encoder.centre, "f")
    distance = f"({smaller}({larger}({x.array}[c], -{span}), {span}) - {centre}) * {scale}"
    activity = f"{_write_fields(w, path, x, len(encoder.centre), distance)}[j]"
    time = f"{w.use_function('nearest')}({format_literal(float(w.steps - 1))} * (1.0f - {activity}))"
    w.write_comment(f"{path}: from here on the inner step of the spike; -1 without one", w.once)
    w.write_loop(w.once, "j", encoder.width, f"{activity} = {activity} >= {silent} ? {time} : -1.0f;")
    w.write_loop(w.step, "j", encoder.width, out.assign("j", f"({activity} == (float)k)"))


ENCODERS: dict[str, Callable[[CWriter, str, Any, Signal, Signal], None]] = {
    "delta": _encode_delta,
    "direct": _encode_direct,
    "latency": _encode_latency,
    "population": _encode_population,
    "rate": _encode_rate,
    "sigma_delta": _encode_sigma_delta,
}
"""Function that writes an encoder, by the encoder's name."""


def write_decoder(w: CWriter, decoder: Any, signal: Signal) -> Signal:
    """Write ``decoder`` of the last layer's output and return the features. Raises ExportError if it has no form in C."""
    write = _get_writer("decoder", decoder, DECODERS)
    outputs = decoder.readout.out_features
    features = w.add_scratch("features", outputs, "output of the network")
    w.write_comment(f"decoder: {type(decoder).__name__}", w.step, w.last)
    write(w, decoder, signal, features)
    return Signal(features, outputs)


def _write_readout(
    w: CWriter, block: list[str], decoder: Any, signal: Signal, target: str, bias: Any = None
) -> None:
    """Append C that sets ``target`` to the readout of ``signal`` to ``block``."""
    w.write_product(block, "decoder_readout_weight", decoder.synapses().t(), bias, signal, target)


def _decode_membrane(w: CWriter, decoder: Any, signal: Signal, features: str) -> None:
    outputs, which = decoder.readout.out_features, decoder.which
    drive = w.add_scratch("drive", outputs, "input of the readout")
    v = w.add_state("decoder_v", outputs, "potential of the readout")
    _write_readout(w, w.step, decoder, signal, drive)
    params = decoder.get_potential_parameters()
    lines, output = format_step(w, "decoder", decoder.potential, params, [f"{v}[n]"], f"{drive}[n]")
    result = f"{v}[n]"
    if which != "last":
        array = w.add_scratch("decoder_read", outputs, f"{which} of the potential")
        result = f"{array}[n]"
        larger = f"k == 0 || {output} > {result} ? {output} : {result}"
        lines.append(f"{result} = {larger if which == 'max' else f'{result} + {output}'};")
        if which == "mean":
            w.write_clear(w.once, array, outputs)
            result += f" / {format_literal(float(w.steps))}"
    w.write_loop(w.step, "n", outputs, *lines)
    bias = w.format_element("decoder_readout_bias", decoder.readout.bias)
    w.write_loop(w.last, "n", outputs, f"{features}[n] = {result} + {bias};")


def _decode_linear(w: CWriter, decoder: Any, signal: Signal, features: str) -> None:
    _write_readout(w, w.last, decoder, signal, features, decoder.readout.bias)


def _sum_steps(w: CWriter, signal: Signal) -> Signal:
    """Write the sum of ``signal`` over the inner steps and return it."""
    total = w.add_scratch("decoder_sum", signal.width, "sum of a neuron's output over the inner steps")
    w.write_clear(w.once, total, signal.width)
    w.write_loop(w.step, "n", signal.width, f"{total}[n] += {signal.array}[n];")
    return Signal(total, signal.width)


def _decode_rate(w: CWriter, decoder: Any, signal: Signal, features: str) -> None:
    if w.steps > 1 or get_entry_name(decoder) == "population_vector":
        signal = _sum_steps(w, signal)
        mean = f"{signal.array}[n] = {signal.array}[n] / {format_literal(float(w.steps))};"
        w.write_loop(w.last, "n", signal.width, mean)
    _decode_linear(w, decoder, signal, features)


def _decode_first_spike(w: CWriter, decoder: Any, signal: Signal, features: str) -> None:
    width = signal.width
    silent = w.add_scratch("decoder_silent", width, "1 until a neuron's first spike, then 0")
    total = w.add_scratch("decoder_sum", width, "inner steps before a neuron's first spike")
    w.write_loop(w.once, "n", width, f"{silent}[n] = 1.0f;", f"{total}[n] = 0.0f;")
    w.write_loop(
        w.step, "n", width, f"{silent}[n] *= 1.0f - {signal.array}[n];", f"{total}[n] += {silent}[n];"
    )
    w.write_loop(w.last, "n", width, f"{total}[n] = 1.0f - {total}[n] / {format_literal(float(w.steps))};")
    _decode_linear(w, decoder, Signal(total, width), features)


def _decode_sigma_delta(w: CWriter, decoder: Any, signal: Signal, features: str) -> None:
    total, outputs = _sum_steps(w, signal), decoder.readout.out_features
    stored = w.add_state("decoder_total", outputs, "sum of the readout")
    _write_readout(w, w.last, decoder, total, features)
    bias = w.format_element("decoder_readout_bias", decoder.readout.bias)
    w.write_loop(
        w.last, "n", outputs,
        f"{stored}[n] = {stored}[n] + {features}[n];", f"{features}[n] = {stored}[n] + {bias};",
    )  # fmt: skip


DECODERS: dict[str, Callable[[CWriter, Any, Signal, str], None]] = {
    "first_spike": _decode_first_spike,
    "linear": _decode_linear,
    "membrane": _decode_membrane,
    "population_vector": _decode_rate,
    "rate": _decode_rate,
    "sigma_delta": _decode_sigma_delta,
}
"""Function that writes a decoder, by the decoder's name."""
