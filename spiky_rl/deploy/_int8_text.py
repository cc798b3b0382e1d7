"""A quantised network in integers in C: the statements around the steps of `_int8_layers`, which print themselves."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._c_writer import Channels, CWriter, Signal
from spiky_rl.deploy._int8_arithmetic import NARROW_LIMIT, Term
from spiky_rl.deploy._int8_codecs import FIELD_BITS, Int8Encoder, Int8Readout
from spiky_rl.deploy._int8_layers import Int8Format, Int8Layer
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.kernels.emit import format_literal


def write_integer_network(w: CWriter, network: IntegerNetwork, x: Signal) -> str:
    """Write ``network`` of the normalised observations ``x``, and return the C expression of the policy's action n."""
    w.steps, w.stateful = network.steps, network.stateful
    w.comment("encoder: observations become integers", w.once)
    signal = _write_encoder(w, network.encoding, network.stages[0].source, x)
    for i, layer in enumerate(network.stages):
        signal = _write_layer(w, f"layers_{i}", layer, signal)
    return _write_readout(w, network.decoding, signal)


def _make_term(w: CWriter, text: str, lines: list[str]) -> Term:
    """Return a term whose declarations go to ``lines``."""
    return Term(text, lines, w.use_function, 7 if text.startswith("-") else 9)


def _get_kind(signal: Int8Format) -> str:
    """Return the C type of a signal's elements."""
    return "int16_t" if signal.graded else "uint8_t"


# encoder


def _write_encoder(w: CWriter, encoder: Int8Encoder, source: Int8Format, x: Signal) -> Signal:
    kind = _get_kind(source)
    array = w.add_scratch("encoder", encoder.width, "signal of the encoder in an inner step", kind)
    if not encoder.constant:
        w.comment(f"encoder: {encoder.width} channels of an inner step")
    _write_channels(w, "encoder", encoder, x, Channels(array, kind))
    return Signal(array, encoder.width, kind, encoder.constant)


def _write_channels(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Channels) -> None:
    if encoder.parts:
        first, second = encoder.parts
        _write_channels(w, f"{path}_first", first, x, out)
        _write_channels(w, f"{path}_second", second, x, replace(out, first=out.first + first.width))
        return
    if encoder.table is not None:
        _write_fields(w, path, encoder, x, out)
        return
    factor, limit = (format_literal(float(n)) for n in (encoder.factor[0], encoder.limit))
    lines = [f"const int32_t x = {w.use_function('whole')}({x.array}[c] * {factor}, {limit});"]
    seen, lines_after_loop = _make_term(w, "x", lines), list[str]()
    if encoder.kind == "direct":
        lines.append(f"{out.get('c')} = (int16_t)x;")
    elif encoder.kind == "sigma_delta":
        text = "the encoder's reference of an observation"
        stored = w.add_state(f"{path}_reference", x.width, text, "int16_t")
        event, reference = op.send_change(seen, _make_term(w, f"{stored}[c]", lines), encoder.threshold)
        lines += [f"{stored}[c] = (int16_t)({reference.text});", f"{out.get('c')} = (int16_t){event.text};"]
        w.clear_after_first_step(out, x.width)
    elif encoder.kind == "delta":
        text = "spike counts of the encoder, negative in the second channel"
        counts = w.add_scratch(f"{path}_counts", x.width, text, "int32_t")
        text = "the encoder's reference of an observation"
        stored = w.add_state(f"{path}_reference", x.width, text, "int32_t")
        if encoder.starts_at_first:
            begun = w.add_state(f"{path}_begun", 1, "whether the episode has begun", "uint8_t")
            lines.append(f"if (!{begun}[0]) {stored}[c] = x;")
            lines_after_loop.append(f"{begun}[0] = 1;")
        last_reference = _make_term(w, f"{stored}[c]", lines)
        events, reference = op.count_changes(seen, last_reference, encoder.threshold, w.steps)
        lines += [f"{stored}[c] = {reference.text};", f"{counts}[c] = {events.text};"]
        _write_spikes(w, encoder, x.width, out, f"{counts}[c] > k", f"-{counts}[c] > k")
    else:
        assert encoder.noise is not None
        text = "spike probabilities of the encoder, negative in the second channel"
        counts = w.add_scratch(f"{path}_counts", x.width, text, "int32_t")
        noise = f"{w.add_constant(f'{path}_noise', encoder.noise)}[k * {2 * x.width} + "
        lines.append(f"{counts}[c] = x;")
        tests = f"{noise}c] < {counts}[c]", f"{noise}{x.width} + c] < -{counts}[c]"
        _write_spikes(w, encoder, x.width, out, *tests)
    w.write_loop(w.once, "c", x.width, *lines)
    w.once += lines_after_loop


def _write_spikes(
    w: CWriter, encoder: Int8Encoder, count: int, out: Channels, positive: str, negative: str
) -> None:
    """Write the spikes of both channels of an observation, where the tests ``positive`` and ``negative`` hold."""
    body = [
        out.assign("c", _format_spike(encoder, test), offset)
        for test, offset in ((positive, 0), (negative, count))
    ]
    w.write_loop(w.step, "c", count, *body)


def _format_spike(encoder: Int8Encoder, test: str) -> str:
    """Return the C expression of a spike where ``test`` holds."""
    return f"(({test}){'' if encoder.spike == 1 else f' * {encoder.spike}'})"


def _write_fields(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Channels) -> None:
    """Write receptive fields, whose activity is looked up in a table; j is the channel."""
    assert encoder.table is not None and encoder.offset is not None
    fields = encoder.offset.shape[1]
    factor = w.format_element(f"{path}_factor", encoder.factor, "j")
    offset = w.format_element(f"{path}_centre", encoder.offset, "j")
    table = w.add_constant(f"{path}_activity_of_distance", encoder.table, "int32_t")
    activity = w.add_scratch(f"{path}_activity", encoder.width, "activity of a receptive field", "int32_t")
    to_integer, limit = w.use_function("whole"), format_literal(float(encoder.limit))
    seen = f"{x.array}[c]"
    if math.isfinite(encoder.span):
        seen = f"{w.use_function('observed')}({seen}, {format_literal(encoder.span)})"
    lines = [
        f"const int j = c * {fields} + f;",
        f"const int32_t distance = {to_integer}({seen} * {factor} - {offset}, {limit});",
    ]
    distance = op.take_size(_make_term(w, "distance", lines))
    value = op.name(op.interpolate(distance, distance.make(table), FIELD_BITS), "value")
    if encoder.kind == "latency":
        value = op.time_spike(value, w.steps, encoder.threshold)
    w.write_loop(w.once, "c", x.width, w.format_loop("f", fields, *lines, f"{activity}[j] = {value.text};"))
    body: list[str] = []
    if encoder.kind == "latency":
        test = f"{activity}[j] == k"
    elif encoder.noise is not None:
        noise = w.add_constant(f"{path}_noise", encoder.noise)
        test = f"{noise}[k * {encoder.width} + j] < {activity}[j]"
    else:
        v = w.add_scratch(f"{path}_v", encoder.width, "charge of a receptive field's neuron", "int32_t")
        w.clear(w.once, v, encoder.width)
        spike, remainder = op.integrate_activity(
            _make_term(w, f"{v}[j]", body), _make_term(w, f"{activity}[j]", body)
        )
        body.append(f"{v}[j] = {remainder.text};")
        test = spike.text
    w.write_loop(w.step, "j", encoder.width, *body, out.assign("j", _format_spike(encoder, test)))


# layers


def _write_sums(w: CWriter, block: list[str], path: str, weight: Tensor, signal: Signal, target: str) -> str:
    """Append C that sums the rows of weights [C, N] of the events to ``block``, and return the C array of the sums."""
    outputs = weight.shape[1]
    most = max(int(weight.clamp(min=0).sum(0).max()), int((-weight).clamp(min=0).sum(0).max()))
    narrow = signal.binary and most <= NARROW_LIMIT
    kind = "int16_t" if narrow else "int32_t"
    array = w.add_scratch(f"{target}_{kind[3:5]}", outputs, "sums of weights", kind)
    constant = w.add_constant(path, weight, "int8_t")
    add = "add_narrow_rows" if narrow else "add_wide_rows" if signal.binary else "add_multiples"
    x = "" if signal.binary else f"{signal.array}, "
    w.clear(block, array, outputs)
    w.list_events(block, signal)
    block.append(f"{w.use_function(add)}({array}, {constant}, {x}s->event, events, {outputs});")
    return array


def _write_layer(w: CWriter, path: str, layer: Int8Layer, signal: Signal) -> Signal:
    width, body, kind = layer.width, list[str](), _get_kind(layer.output_format)
    w.comment(layer.title)

    def constant(name: str) -> Term:
        values = layer.get_constant(name)
        if name == "table":
            return _make_term(w, w.add_constant(f"{path}_{name}", values, "int32_t"), body)
        return _make_term(w, w.format_element(f"{path}_neuron_{name}", values), body)

    target, block = "sum", w.step
    if signal.constant:
        target, block = f"{path}_current", w.once
        w.comment(f"{path}: its current is the same in all inner steps", block)
    total = f"{_write_sums(w, block, f'{path}_weight', layer.weight, signal, target)}[n]"
    current = layer.scale_input(_make_term(w, total, body), constant)
    if signal.constant:
        w.write_loop(block, "n", width, f"{total} = {current.text};")
        current = _make_term(w, total, body)
    past, size = "", width * layer.delays
    if layer.recurrent_weight is not None:
        past = w.add_state(f"{path}_past", size, "last spikes, the latest first", kind)
        weights = f"{path}_recurrent_weight"
        total = _write_sums(w, w.step, weights, layer.recurrent_weight, Signal(past, size, kind), "feedback")
        current = current + layer.scale_feedback(_make_term(w, f"{total}[n]", body), constant)
    c_types = dict(zip(layer.state_names, layer.c_types, strict=True))
    states = [
        w.add_state(f"{path}_{name}", width, f"state {name} of a neuron", c_type) + "[n]"
        for name, c_type in c_types.items()
    ]
    output, new = layer.step(current, [_make_term(w, state, body) for state in states], constant)
    for state, c_type, value in zip(states, layer.c_types, new, strict=True):
        body.append(f"{state} = ({c_type}){op.bracket(value, 9)};")
    name = "sent" if layer.output_format.graded else "fired"
    result = Signal(w.add_scratch(name, width, "output of a layer", kind), width, kind)
    w.write_loop(w.step, "n", width, *body, f"{result.array}[n] = ({kind}){op.bracket(output, 9)};")
    if layer.recurrent_weight is not None:
        w.remember(past, layer.delays, result)
    return result


# decoder


def _write_readout(w: CWriter, readout: Int8Readout, signal: Signal) -> str:
    """Write the decoder and return the C expression of the policy's action n."""
    count = readout.weight.shape[1]
    if readout.kind == "first_spike":
        fired = w.add_scratch("decoder_fired", signal.width, "whether a neuron has fired", "uint8_t")
        w.once.append(f"memset({fired}, 0, {signal.width});")
        w.comment("decoder: a neuron counts in all inner steps from its first spike on")
        w.write_loop(w.step, "n", signal.width, f"{fired}[n] |= {signal.array}[n];")
        signal = Signal(fired, signal.width, "uint8_t")
    block = w.last if readout.kind == "linear" else w.step
    w.comment("decoder", block)
    result = _write_sums(w, block, "decoder_weight", readout.weight, signal, "drive")
    scale = w.format_element("decoder_scale", readout.scale)
    bias = w.format_element("decoder_bias", readout.bias)
    if readout.kind != "linear":
        result = _write_integration(w, readout, result, count)
    w.comment("action: integers become floats", w.last)
    return f"(float){result}[n] * {scale} + {bias}"


def _write_integration(w: CWriter, readout: Int8Readout, drive: str, count: int) -> str:
    """Write the sum of ``drive`` over the inner steps, and return the C array of the readout's result."""
    add = w.add_state if readout.sizes else w.add_scratch
    total, lines = add("decoder_v", count, "integrated readout", "int32_t"), list[str]()
    term, change = _make_term(w, f"{total}[n]", lines), _make_term(w, f"{drive}[n]", lines)
    value = readout.integrate(term, change) if readout.sizes else term + change
    lines.append(f"{total}[n] = {value.text};")
    result = total
    if not readout.sizes:
        w.clear(w.once, total, count)
    elif readout.kind == "membrane" and readout.read != "last":
        wide = "int64_t" if readout.read == "mean" else "int32_t"
        result = w.add_scratch("decoder_read", count, f"{readout.read} of the readout", wide)
        w.clear(w.once, result, count)
        largest = f"if (k == 0 || {total}[n] > {result}[n]) {result}[n] = {total}[n];"
        lines.append(largest if readout.read == "max" else f"{result}[n] += {total}[n];")
    w.write_loop(w.step, "n", count, *lines)
    return result


def describe_values(network: IntegerNetwork) -> str:
    """Return the sentences of the header on the integers of ``network``."""
    return (
        "Weights are int8, in a unit of their postsynaptic neuron. A neuron's input is a whole number of this unit; its membrane"
        " has additional fraction bits. The fixed-point formats of observations and membranes fit their ranges in"
        f" {network.calibration_source}. Values out of range are clamped. An observation that is not a number counts as 0, after"
        " normalisation."
    )
