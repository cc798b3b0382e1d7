"""Encoders in C: statements that set the channels of a signal, before and in the inner steps."""

# pylint: disable=unidiomatic-typecheck  # a subclass may compute something else

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spiky_rl.codecs.encoders.concat import ConcatEncoder
from spiky_rl.codecs.encoders.delta import Delta
from spiky_rl.codecs.encoders.direct import Direct
from spiky_rl.codecs.encoders.latency import Latency
from spiky_rl.codecs.encoders.population import Population
from spiky_rl.codecs.encoders.rate import RateEncoder
from spiky_rl.codecs.encoders.sigma_delta import SigmaDeltaEncoder
from spiky_rl.config import registry
from spiky_rl.deploy._c_writer import Channels, CWriter, Signal
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels.emit import format_literal


def write_encoder(w: CWriter, encoder: Any, x: Signal) -> Signal:
    """Write ``encoder`` of the observation ``x`` and return its signal. Raises ExportError if it has no form in C."""
    if type(encoder) is Direct:
        return x
    kind = "uint8_t" if encoder.binary else "float"
    name = type(encoder).__name__
    w.comment(f"encoder: {name}, {encoder.width} channels")
    w.comment(f"encoder: {name}", w.once)
    array = w.add_scratch("encoder", encoder.width, "signal of the encoder in an inner step", kind)
    _write_channels(w, "encoder", encoder, x, Channels(array, kind))
    return Signal(array, encoder.width, kind)


def _write_channels(w: CWriter, path: str, encoder: Any, x: Signal, out: Channels) -> None:
    if type(encoder) not in ENCODERS:
        names = ", ".join(registry.list_names("encoders"))
        raise ExportError(f"agent.network.encoder: no form in C; allowed: {names}")
    ENCODERS[type(encoder)](w, path, encoder, x, out)


def _write_concat(w: CWriter, path: str, encoder: ConcatEncoder, x: Signal, out: Channels) -> None:
    _write_channels(w, f"{path}_first", encoder.first, x, out)
    _write_channels(
        w, f"{path}_second", encoder.second, x, replace(out, first=out.first + encoder.first.width)
    )


def _write_direct(w: CWriter, _path: str, _encoder: Direct, x: Signal, out: Channels) -> None:
    w.write_loop(w.once, "c", x.width, f"{out.get('c')} = {x.array}[c];")


def _write_delta(w: CWriter, path: str, encoder: Delta, x: Signal, out: Channels) -> None:
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


def _write_sigma_delta(w: CWriter, path: str, encoder: SigmaDeltaEncoder, x: Signal, out: Channels) -> None:
    reference = w.add_state(f"{path}_reference", x.width, "receiver's copy of an observation")
    size, sent = f"{w.use_function('absolute')}(change)", out.get("c")
    w.write_loop(
        w.once, "c", x.width,
        f"const float change = {x.array}[c] - {reference}[c];",
        f"{sent} = {size} >= {format_literal(encoder.threshold)} ? change : 0.0f;",
        f"{reference}[c] = {reference}[c] + {sent};",
    )  # fmt: skip
    w.clear_after_first_step(out, x.width)


def _write_rate(w: CWriter, path: str, encoder: RateEncoder, x: Signal, out: Channels) -> None:
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


def _write_population(w: CWriter, path: str, encoder: Population, x: Signal, out: Channels) -> None:
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
    w.clear(w.once, v, encoder.width)
    w.write_loop(
        w.step, "j", encoder.width,
        f"const float charge = {v}[j] + {activity}[j];",
        "const float spike = charge - 1.0f >= 0.0f ? 1.0f : 0.0f;",
        f"{v}[j] = charge - spike;",
        out.assign("j", "spike"),
    )  # fmt: skip


def _write_latency(w: CWriter, path: str, encoder: Latency, x: Signal, out: Channels) -> None:
    span, scale, silent = (format_literal(n) for n in (encoder.span, encoder.scale, encoder.cutoff))
    larger, smaller = w.use_function("larger"), w.use_function("smaller")
    centre = w.format_element(f"{path}_centre", encoder.centre, "f")
    distance = f"({smaller}({larger}({x.array}[c], -{span}), {span}) - {centre}) * {scale}"
    activity = f"{_write_fields(w, path, x, len(encoder.centre), distance)}[j]"
    time = f"{w.use_function('nearest')}({format_literal(float(w.steps - 1))} * (1.0f - {activity}))"
    w.comment(f"{path}: from here on the inner step of the spike; -1 without one", w.once)
    w.write_loop(w.once, "j", encoder.width, f"{activity} = {activity} >= {silent} ? {time} : -1.0f;")
    w.write_loop(w.step, "j", encoder.width, out.assign("j", f"({activity} == (float)k)"))


ENCODERS: dict[type, Callable[[CWriter, str, Any, Signal, Channels], None]] = {
    ConcatEncoder: _write_concat,
    Direct: _write_direct,
    Delta: _write_delta,
    SigmaDeltaEncoder: _write_sigma_delta,
    RateEncoder: _write_rate,
    Population: _write_population,
    Latency: _write_latency,
}
