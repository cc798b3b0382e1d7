"""A quantised network in integers in C: the statements around the steps of `_int8_layers`, which print themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import override

from torch import Tensor

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._c_layers import LayerWriter
from spiky_rl.deploy._c_term import Term, bracket
from spiky_rl.deploy._c_writer import CWriter, Signal
from spiky_rl.deploy._int8_arithmetic import NARROW_LIMIT
from spiky_rl.deploy._int8_codecs import FIELD_BITS, Int8Encoder, Int8Readout
from spiky_rl.deploy._int8_layers import Int8Format, Int8Layer
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.kernels.emit import format_literal

REFERENCE_TEXT = "the encoder's reference of an observation"


def write_integer_network(w: CWriter, network: IntegerNetwork, x: Signal) -> str:
    """Write ``network`` of the normalised observations ``x``, and return the C expression of the policy's action n."""
    w.steps, w.stateful = network.steps, network.stateful
    w.comment("encoder: observations become integers", w.once)
    signal = _write_encoder(w, network.encoding, network.stages[0].source, x)
    for i, layer in enumerate(network.stages):
        signal = IntegerLayer(w, f"layers_{i}", layer).write(layer.title, signal)
    return _write_readout(w, network.decoding, signal)


class _Constants:
    """A layer's constants in C, for neuron n; a constant that is the same for all neurons is a number."""

    def __init__(self, w: CWriter, path: str, layer: Int8Layer, lines: list[str]) -> None:
        self.w, self.path, self.layer, self.lines = w, path, layer, lines

    def make(self, text: str) -> Term:
        """Return the term of a C expression, which may declare names before the statement that uses it."""
        return Term(text, self.lines, self.w.use_function)

    def __getattr__(self, name: str) -> Term:
        values = getattr(self.layer, name)
        if name == "table":
            return self.make(self.w.add_constant(f"{self.path}_{name}", values, "int32_t"))
        return self.make(self.w.format_element(f"{self.path}_neuron_{name}", values))


# encoder


def _write_encoder(w: CWriter, encoder: Int8Encoder, source: Int8Format, x: Signal) -> Signal:
    kind = source.c_type
    array = w.add_scratch("encoder", encoder.width, "signal of the encoder in an inner step", kind)
    if not encoder.constant:
        w.comment(f"encoder: {encoder.width} channels of an inner step")
    signal = Signal(array, encoder.width, kind, encoder.constant)
    _write_channels(w, "encoder", encoder, x, signal)
    return signal


def _write_channels(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Signal) -> None:
    if encoder.parts:
        first, second = encoder.parts
        _write_channels(w, f"{path}_first", first, x, out)
        _write_channels(w, f"{path}_second", second, x, replace(out, first=out.first + first.width))
    elif encoder.table is not None:
        _write_fields(w, path, encoder, x, out)
    elif encoder.kind in ("direct", "sigma_delta"):
        _write_values(w, path, encoder, x, out)
    else:
        _write_signed_spikes(w, path, encoder, x, out)


def _format_rounding(w: CWriter, encoder: Int8Encoder, x: Signal) -> str:
    """Return the C declaration of observation c as an integer."""
    factor, limit = (format_literal(float(n)) for n in (encoder.factor[0], encoder.limit))
    return f"const int32_t x = {w.use_function('whole')}({x.array}[c] * {factor}, {limit});"


def _write_values(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Signal) -> None:
    """Write rounded observations; sigma_delta: their changes, in the first inner step."""
    lines = [_format_rounding(w, encoder, x)]
    value = Term("x", lines, w.use_function)
    if encoder.kind == "sigma_delta":
        stored = w.add_state(f"{path}_reference", x.width, REFERENCE_TEXT, "int16_t")
        value, reference = op.send_change(value, value.make(f"{stored}[c]"), encoder.threshold)
        lines.append(f"{stored}[c] = (int16_t)({reference.text});")
        w.clear_after_first_step(out, x.width)
    w.write_loop(w.once, "c", x.width, *lines, f"{out.get('c')} = (int16_t){value.text};")


def _write_signed_spikes(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Signal) -> None:
    """Write the spikes of the kinds delta and rate, which have a second channel for negative observations."""
    lines, lines_after_loop = [_format_rounding(w, encoder, x)], list[str]()
    content = "spike counts" if encoder.noise is None else "spike probabilities"
    text = f"{content} of the encoder, negative in the second channel"
    count = w.add_scratch(f"{path}_counts", x.width, text, "int32_t") + "[c]"
    if encoder.noise is not None:
        noise = f"{w.add_constant(f'{path}_noise', encoder.noise)}[k * {2 * x.width} + "
        lines.append(f"{count} = x;")
        tests = f"{noise}c] < {count}", f"{noise}{x.width} + c] < -{count}"
    else:
        stored = w.add_state(f"{path}_reference", x.width, REFERENCE_TEXT, "int32_t") + "[c]"
        if encoder.starts_at_first:
            begun = w.add_state(f"{path}_begun", 1, "whether the episode has begun", "uint8_t")
            lines.append(f"if (!{begun}[0]) {stored} = x;")
            lines_after_loop.append(f"{begun}[0] = 1;")
        seen = Term("x", lines, w.use_function)
        events, reference = op.count_changes(seen, seen.make(stored), encoder.threshold, w.steps)
        lines += [f"{stored} = {reference.text};", f"{count} = {events.text};"]
        tests = f"{count} > k", f"-{count} > k"
    body = [_format_spike(encoder, out, "c", test, i * x.width) for i, test in enumerate(tests)]
    w.write_loop(w.step, "c", x.width, *body)
    w.write_loop(w.once, "c", x.width, *lines)
    w.once += lines_after_loop


def _format_spike(encoder: Int8Encoder, out: Signal, index: str, test: str, offset: int = 0) -> str:
    """Return the C statement that sends a spike where ``test`` holds."""
    return out.assign(index, f"(({test}){'' if encoder.spike == 1 else f' * {encoder.spike}'})", offset)


def _write_fields(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Signal) -> None:
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
    distance = op.take_size(Term("distance", lines, w.use_function))
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
        charge = Term(f"{v}[j]", body, w.use_function)
        spike, remainder = op.integrate_activity(charge, charge.make(f"{activity}[j]"))
        body.append(f"{v}[j] = {remainder.text};")
        test = spike.text
    w.write_loop(w.step, "j", encoder.width, *body, _format_spike(encoder, out, "j", test))


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


class IntegerLayer(LayerWriter):
    """Writer of a layer in integers."""

    def __init__(self, w: CWriter, path: str, layer: Int8Layer) -> None:
        kind = layer.output_format.c_type
        super().__init__(w, path, layer.width, layer.delays, kind, layer.state_types)
        self.layer, self.constants = layer, _Constants(w, path, layer, self.body)

    @override
    def write_current(self, block: list[str], signal: Signal, name: str) -> Term:
        c, weights = self.constants, f"{self.path}_weight"
        total = f"{_write_sums(self.w, block, weights, self.layer.weight, signal, name)}[n]"
        current = self.layer.scale_input(c.make(total), c)
        if not signal.constant:
            return current
        self.w.write_loop(block, "n", self.width, f"{total} = {current.text};")
        return c.make(total)

    @override
    def write_feedback(self, past: Signal) -> Term:
        c, w, weight = self.constants, self.w, self.layer.recurrent_weight
        assert weight is not None
        total = _write_sums(w, w.step, f"{self.path}_recurrent_weight", weight, past, "feedback")
        return self.layer.scale_feedback(c.make(f"{total}[n]"), c)

    @override
    def write_step(self, current: Term, states: list[Term]) -> str:
        output, new = self.layer.step(current, states, self.constants)
        for state, kind, value in zip(states, self.state_types.values(), new, strict=True):
            self.body.append(f"{state.text} = ({kind}){bracket(value, 9)};")
        return f"({self.output_type}){bracket(output, 9)}"


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
    term = Term(f"{total}[n]", lines, w.use_function)
    change = term.make(f"{drive}[n]")
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
