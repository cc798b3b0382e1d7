"""A quantised network in integers in C: the statements around the steps of `_int8_layers`, which print themselves."""

from __future__ import annotations

from typing import override

from torch import Tensor

from spiky_rl.deploy._c_codecs import split_channels
from spiky_rl.deploy._c_term import Term, bracket
from spiky_rl.deploy._c_writer import CWriter, LayerWriter, Signal
from spiky_rl.deploy._int8_arithmetic import NARROW_LIMIT
from spiky_rl.deploy._int8_codecs import Int8Encoder, Int8Readout
from spiky_rl.deploy._int8_layers import Int8Layer
from spiky_rl.deploy._int8_network import Int8Network


def write_int8_network(w: CWriter, network: Int8Network, x: Signal) -> str:
    """Write ``network`` of the normalised observations ``x``, and return the C expression of the policy's action n."""
    w.steps, w.stateful = network.steps, network.stateful
    w.write_comment("encoder: observations become integers", w.once)
    encoders, kind = network.encoders, network.stages[0].source.c_type
    width = sum(part.width for part in encoders.values())
    constant = all(part.is_constant for part in encoders.values())
    array = w.add_scratch("encoder", width, "signal of the encoder in an inner step", kind)
    if not constant:
        w.write_comment(f"encoder: {width} channels of an inner step")
    signal = Signal(array, width, kind, constant)
    for path, encoder, out in split_channels(signal, encoders.items()):
        _write_channels(w, path, encoder, x, out)
    for i, layer in enumerate(network.stages):
        signal = Int8LayerWriter(w, f"layers_{i}", layer).write(layer.title, signal)
    return _write_readout(w, network.decoding, signal)


class _Constants:
    """Constants of a layer or an encoder in C; a constant of which all elements are equal is a number."""

    def __init__(
        self, w: CWriter, path: str, part: Int8Layer | Int8Encoder, lines: list[str], index: str = "n"
    ) -> None:
        """Name the constants of ``part``, by elements ``index``, with the prefix ``path``; ``lines``: of the statement that uses them."""
        self.w, self.path, self.part, self.lines, self.index = w, path, part, lines, index

    def make(self, text: str) -> Term:
        """Return the term of a C expression, which may declare names before the statement that uses it."""
        return Term(text, self.lines, self.w.use_function)

    def __getattr__(self, name: str) -> Term:
        values, constant = getattr(self.part, name), f"{self.path}_{name}"
        if name == "table":
            return self.make(self.w.add_constant(constant, values, "int32_t"))
        return self.make(self.w.format_element(constant, values, self.index))


# encoder


def _write_channels(w: CWriter, path: str, encoder: Int8Encoder, x: Signal, out: Signal) -> None:
    """Write an ``encoder``: before the inner steps the value of each observation c or field j, then what its channels send."""
    lines, after_loop, fields = list[str](), list[str](), encoder.fields
    c = _Constants(w, path, encoder, lines, "c" if fields == 1 else "j")
    states = {}
    for (name, kind), size in zip(encoder.state_types.items(), encoder.state_sizes, strict=False):
        array = w.add_state(f"{path}_{name}", size, f"state {name} of the encoder", kind)
        states[f"{array}[{'c' if size == x.width else 0}]"] = kind
    observation = encoder.round_observation(c.make(f"{x.array}[c]"), c)
    value, new = encoder.prepare(observation, [c.make(state) for state in states], c)
    for (state, kind), term in zip(states.items(), new, strict=True):
        (lines if "[c]" in state else after_loop).append(f"{state} = ({kind}){bracket(term, 9)};")
    if encoder.is_graded:
        lines.append(f"{out.get('c')} = (int16_t){bracket(value, 9)};")
        if not encoder.is_constant:
            w.clear_after_first_step(out, x.width)
    else:
        text = f"{encoder.kind}: values of the observations in the inner steps"
        array = w.add_scratch(f"{path}_values", x.width * fields, text, "int32_t")
        lines.append(f"{array}[{c.index}] = {value.text};")
        _write_spikes(w, path, encoder, c.make(f"{array}[{c.index}]"), x.width * fields, out)
    if fields > 1:
        lines = [w.format_loop("f", fields, f"const int j = c * {fields} + f;", *lines)]
    w.write_loop(w.once, "c", x.width, *lines)
    w.once += after_loop


def _write_spikes(w: CWriter, path: str, encoder: Int8Encoder, value: Term, width: int, out: Signal) -> None:
    """Write the spikes of the channels of ``value``, of which the encoder has ``width``."""
    index, noise, body = "c" if encoder.fields == 1 else "j", None, []
    for i, term in enumerate([value, -value] if encoder.is_signed else [value]):
        if encoder.noise is not None:
            row = f"k * {encoder.width} + {f'{i * width} + ' if i else ''}{index}"
            noise = value.make(f"{w.add_constant(f'{path}_noise', encoder.noise)}[{row}]")
        spike = encoder.send(term, value.make("k"), noise)
        spike = spike if encoder.spike == 1 else spike * encoder.spike
        body.append(out.assign(index, bracket(spike, 9), i * width))
    w.write_loop(w.step, index, width, *body)


# layers


def _write_sums(w: CWriter, block: list[str], path: str, weight: Tensor, signal: Signal, target: str) -> str:
    """Append C that sums the rows of weights [C, N] of the events to ``block``, and return the C array of the sums."""
    outputs = weight.shape[1]
    most = max(int(weight.clamp(min=0).sum(0).max()), int((-weight).clamp(min=0).sum(0).max()))
    narrow = signal.binary and most <= NARROW_LIMIT
    kind = "int16_t" if narrow else "int32_t"
    array = w.add_scratch(f"{target}_{kind[3:5]}", outputs, "sums of weights", kind)
    function = "add_narrow_rows" if narrow else "add_wide_rows" if signal.binary else "add_multiples"
    w.write_clear(block, array, outputs)
    w.write_event_list(block, signal)
    w.write_row_sum(block, function, path, weight, signal, array, "int8_t")
    return array


class Int8LayerWriter(LayerWriter):
    """Writer of a layer in integers."""

    def __init__(self, w: CWriter, path: str, layer: Int8Layer) -> None:
        kind = layer.output_format.c_type
        super().__init__(w, path, layer.width, layer.delays, kind, layer.state_types)
        self.layer, self.constants = layer, _Constants(w, f"{path}_neuron", layer, self.body)

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
        w.write_comment("decoder: a neuron counts in all inner steps from its first spike on")
        w.write_loop(w.step, "n", signal.width, f"{fired}[n] |= {signal.array}[n];")
        signal = Signal(fired, signal.width, "uint8_t")
    block = w.last if readout.kind == "linear" else w.step
    w.write_comment("decoder", block)
    result = _write_sums(w, block, "decoder_weight", readout.weight, signal, "drive")
    scale = w.format_element("decoder_scale", readout.scale)
    bias = w.format_element("decoder_bias", readout.bias)
    if readout.kind != "linear":
        result = _write_integration(w, readout, result, count)
    w.write_comment("action: integers become floats", w.last)
    return f"(float){result}[n] * {scale} + {bias}"


def _write_integration(w: CWriter, readout: Int8Readout, drive: str, count: int) -> str:
    """Write the sum of ``drive`` over the inner steps, and return the C array of the readout's result."""
    add = w.add_state if readout.sizes else w.add_scratch
    result = total = add("decoder_v", count, "integrated readout", "int32_t")
    term = Term(f"{total}[n]", [], w.use_function)
    lines = [f"{total}[n] = {readout.integrate(term, term.make(f'{drive}[n]')).text};"]
    if not readout.sizes:
        w.write_clear(w.once, total, count)
    elif readout.read in ("mean", "max"):
        wide = "int64_t" if readout.read == "mean" else "int32_t"
        result = w.add_scratch("decoder_read", count, f"{readout.read} of the readout", wide)
        w.write_loop(w.once, "n", count, f"{result}[n] = {readout.start};")
        lines.append(f"{result}[n] = {readout.read_total(term.make(f'{result}[n]'), term).text};")
    w.write_loop(w.step, "n", count, *lines)
    return result


def describe_values(network: Int8Network) -> str:
    """Return the sentences of the header on the integers of ``network``."""
    return (
        "Weights are int8, in a unit of their postsynaptic neuron. A neuron's input is a whole number of this unit; its membrane"
        " has additional fraction bits. The fixed-point formats of observations and membranes fit their ranges in"
        f" {network.calibration_source}. Values out of range are clamped. An observation that is not a number counts as 0, after"
        " normalisation."
    )
