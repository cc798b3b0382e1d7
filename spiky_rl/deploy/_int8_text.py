"""Writer of ``policy.c`` in integers from a quantised network: the loops of `_c_network` around the steps of `_int8_layers`."""

from __future__ import annotations

import math

from torch import Tensor

from spiky_rl.deploy import _int8_arithmetic as op
from spiky_rl.deploy._c_network import NetworkWriter, Signal
from spiky_rl.deploy._int8_arithmetic import NARROW_LIMIT, Term
from spiky_rl.deploy._int8_layers import Int8Encoder, Int8Format, Int8Layer, Int8Readout
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.kernels.emit import format_literal


class Int8Writer(NetworkWriter):
    """Writer of the statements of a control step in integers."""

    zero = "0"

    def __init__(self) -> None:
        super().__init__(width=0)

    def make_term(self, text: str, lines: list[str]) -> Term:
        """Return a term whose declarations go to ``lines``."""
        return Term(text, lines, self.memory.use_function, 7 if text.startswith("-") else 9)

    def write_integers(self, network: IntegerNetwork, observed: str, count: int) -> str:
        """Write ``network`` of the normalised observations ``observed``, an array of ``count`` floats.

        Returns the C expression of the policy's action n.
        """
        self.steps = network.steps
        self.comment("encoder: observations become integers", self.once)
        signal = self._write_encoder(network.encoding, network.stages[0].source, observed, count)
        for i, layer in enumerate(network.stages):
            signal = self._write_layer(f"layers_{i}", layer, signal)
        return self._write_readout(network.decoding, signal)

    # encoder

    def _write_encoder(self, encoder: Int8Encoder, source: Int8Format, observed: str, count: int) -> Signal:
        kind = "int16_t" if source.graded else "uint8_t"
        array = self.memory.add_field(
            kind, "encoder", encoder.width, "signal of the encoder in an inner step"
        )
        if not encoder.constant:
            self.comment(f"encoder: {encoder.width} channels of an inner step")
        self._write_part("encoder", encoder, observed, count, array, 0, f"({kind})")
        return Signal(array, encoder.width, not source.graded, encoder.constant)

    def _write_part(
        self, path: str, encoder: Int8Encoder, observed: str, count: int, array: str, first: int, cast: str
    ) -> None:
        """Write the channels of ``encoder`` from ``first`` on into ``array``."""
        if encoder.parts:
            one, two = encoder.parts
            self._write_part(f"{path}_first", one, observed, count, array, first, cast)
            self._write_part(f"{path}_second", two, observed, count, array, first + one.width, cast)
            return
        at = f"{first} + " if first else ""
        if encoder.table is not None:
            self._write_fields(path, encoder, observed, count, f"{array}[{at}j]", cast)  # type: ignore[arg-type]
            return
        factor, whole = format_literal(float(encoder.factor[0])), self.memory.use_function("whole")
        lines = [
            f"const int32_t x = {whole}({observed}[c] * {factor}, {format_literal(float(encoder.limit))});"
        ]
        x, on, off = self.make_term("x", lines), f"{array}[{at}c]", f"{array}[{at}{count} + c]"
        if encoder.kind == "direct":
            self.once.append(self.format_loop(count, *lines, f"{on} = (int16_t)x;", index="c"))
            return
        if encoder.kind == "sigma_delta":
            held = self.memory.add_field(
                "int16_t", f"{path}_reference", count, "the encoder's reference of an observation", True
            )
            event, reference = op.send_change(x, self.make_term(f"{held}[c]", lines), encoder.threshold)
            lines += [f"{held}[c] = (int16_t)({reference.text});", f"{on} = (int16_t){event.text};"]
            self.once.append(self.format_loop(count, *lines, index="c"))
            if self.steps > 1:
                self.step.append(
                    f"if (k == 1) memset({array}{f' + {first}' if first else ''}, 0, {count} * sizeof {array}[0]);"
                )
            return
        meaning = "spike counts" if encoder.kind == "delta" else "spike probabilities"
        counts = self.memory.add_field(
            "int32_t", f"{path}_counts", count, f"{meaning} of the encoder, negative in the second channel"
        )
        if encoder.kind == "delta":
            held = self.memory.add_field(
                "int32_t", f"{path}_reference", count, "the encoder's reference of an observation", True
            )
            if encoder.first:
                begun = self.memory.add_field(
                    "uint8_t", f"{path}_begun", 1, "whether the episode has begun", True
                )
                lines.append(f"if (!{begun}[0]) {held}[c] = x;")
            events, reference = op.count_changes(
                x, self.make_term(f"{held}[c]", lines), encoder.threshold, self.steps
            )
            lines += [f"{held}[c] = {reference.text};", f"{counts}[c] = {events.text};"]
            tests = f"{counts}[c] > k", f"-{counts}[c] > k"
        else:
            assert encoder.noise is not None
            noise = self.memory.add_constant(f"{path}_noise", encoder.noise)
            lines.append(f"{counts}[c] = x;")
            row = f"{noise}[k * {2 * count} + "
            tests = f"{row}c] < {counts}[c]", f"{row}{count} + c] < -{counts}[c]"
        self.once.append(self.format_loop(count, *lines, index="c"))
        if encoder.first:
            self.once.append(f"{begun}[0] = 1;")
        spike = "" if encoder.spike == 1 else f" * {encoder.spike}"
        body = [f"{place} = {cast}(({test}){spike});" for place, test in zip((on, off), tests, strict=True)]
        self.step.append(self.format_loop(count, *body, index="c"))

    def _write_fields(  # type: ignore[override]
        self, path: str, encoder: Int8Encoder, observed: str, count: int, target: str, cast: str
    ) -> None:
        """Write receptive fields, whose activity is looked up in a table; j is the channel."""
        assert encoder.table is not None and encoder.offset is not None
        fields, spike = encoder.offset.shape[1], "" if encoder.spike == 1 else f" * {encoder.spike}"
        factor = self.memory.format_element(f"{path}_factor", encoder.factor, "j")
        offset = self.memory.format_element(f"{path}_centre", encoder.offset, "j")
        table = self.memory.add_constant(f"{path}_activity_of_distance", encoder.table, "int32_t")
        activity = self.memory.add_field(
            "int32_t", f"{path}_activity", encoder.width, "activity of a receptive field"
        )
        whole, limit = self.memory.use_function("whole"), format_literal(float(encoder.limit))
        seen = f"{observed}[c]"
        if math.isfinite(encoder.span):
            seen = f"{self.memory.use_function('observed')}({seen}, {format_literal(encoder.span)})"
        lines = [
            f"const int j = c * {fields} + f;",
            f"const int32_t distance = {whole}({seen} * {factor} - {offset}, {limit});",
        ]
        distance = self.make_term("distance", lines)
        value = op.name(self._interpolate(op.take_size(distance), table), "value")
        if encoder.kind == "latency":
            value = op.time_spike(value, self.steps, encoder.threshold)
        lines.append(f"{activity}[j] = {value.text};")
        self.once.append(self.format_loop(count, self.format_loop(fields, *lines, index="f"), index="c"))
        body: list[str] = []
        a = self.make_term(f"{activity}[j]", body)
        if encoder.kind == "latency":
            fired = f"{a.text} == k"
        elif encoder.noise is not None:
            noise = self.memory.add_constant(f"{path}_noise", encoder.noise)
            fired = f"{noise}[k * {encoder.width} + j] < {a.text}"
        else:
            v = self.memory.add_field(
                "int32_t", f"{path}_v", encoder.width, "charge of a receptive field's neuron"
            )
            self.once.append(f"memset({v}, 0, {encoder.width} * sizeof {v}[0]);")
            sent, rest = op.charge(self.make_term(f"{v}[j]", body), a)
            body.append(f"{v}[j] = {rest.text};")
            fired = sent.text
        body.append(f"{target} = {cast}(({fired}){spike});")
        self.step.append(self.format_loop(encoder.width, *body, index="j"))

    def _interpolate(self, position: Term, table: str) -> Term:
        from spiky_rl.deploy._int8_layers import FIELD_BITS

        return op.interpolate(position, position.make(table), FIELD_BITS)

    # layers

    def format_sums(self, path: str, weight: Tensor, signal: Signal, target: str) -> tuple[list[str], str]:
        """Return C that sets ``target`` to the sums of weights [C, N], and the C expression of the array."""
        outputs = weight.shape[1]
        most = max(int(weight.clamp(min=0).sum(0).max()), int((-weight).clamp(min=0).sum(0).max()))
        narrow = signal.binary and most <= NARROW_LIMIT
        kind = "int16_t" if narrow else "int32_t"
        array = self.memory.add_field(kind, f"{target}_{kind[3:5]}", outputs, "sums of weights")
        constant = self.memory.add_constant(path, weight, "int8_t")
        call = f"({array}, {constant}, s->event, events, {outputs});"
        if signal.binary:
            call = self.memory.use_function("add_narrow_rows" if narrow else "add_wide_rows") + call
        else:
            call = self.memory.use_function("add_multiples") + call.replace(
                "s->event,", f"{signal.array}, s->event,"
            )
        return [f"memset({array}, 0, {outputs} * sizeof {array}[0]);", self.list_events(signal), call], array

    def _write_layer(self, path: str, layer: Int8Layer, signal: Signal) -> Signal:
        width, body = layer.width, list[str]()
        self.comment(layer.place)

        def constant(name: str) -> Term:
            values = layer.get_constant(name)
            if name == "table":
                return self.make_term(self.memory.add_constant(f"{path}_{name}", values, "int32_t"), body)
            return self.make_term(self.memory.format_element(f"{path}_neuron_{name}", values), body)

        target = f"{path}_current" if signal.constant else "sum"
        sums, total = self.format_sums(f"{path}_weight", layer.weight, signal, target)
        current = layer.scale_input(self.make_term(f"{total}[n]", body), constant)
        if signal.constant:
            self.comment(f"{path}: its current is the same in all inner steps", self.once)
            self.once += [*sums, self.format_loop(width, f"{total}[n] = {current.text};")]
            current = self.make_term(f"{total}[n]", body)
        else:
            self.step += sums
        if layer.within is not None:
            kind = "int16_t" if layer.output_format.graded else "uint8_t"
            past = self.memory.add_field(
                kind, f"{path}_past", width * layer.delays, "last spikes, the latest first", True
            )
            memory = Signal(past, width * layer.delays, not layer.output_format.graded)
            sums, total = self.format_sums(f"{path}_recurrent_weight", layer.within, memory, "feedback")
            self.step += sums
            current = current + layer.scale_feedback(self.make_term(f"{total}[n]", body), constant)
        fields = [
            self.memory.add_field(kind, f"{path}_{name}", width, f"state {name} of a neuron", True)
            for name, kind in zip(layer.state_names, layer.kinds, strict=True)
        ]
        states = [self.make_term(f"{field}[n]", body) for field in fields]
        output, new = layer.step(current, states, constant)
        for field, kind, value in zip(fields, layer.kinds, new, strict=True):
            body.append(f"{field}[n] = ({kind}){op.bracket(value, 9)};")
        name, kind = ("sent", "int16_t") if layer.output_format.graded else ("fired", "uint8_t")
        array = self.memory.add_field(kind, name, width, "output of a layer")
        self.step.append(self.format_loop(width, *body, f"{array}[n] = ({kind}){op.bracket(output, 9)};"))
        if layer.delays > 1:
            rest = width * (layer.delays - 1)
            self.step.append(f"memmove({past} + {width}, {past}, {rest} * sizeof {past}[0]);")
        if layer.within is not None:
            self.step.append(f"memcpy({past}, {array}, {width} * sizeof {past}[0]);")
        return Signal(array, width, not layer.output_format.graded)

    # decoder

    def _write_readout(self, readout: Int8Readout, signal: Signal) -> str:
        """Write the decoder and return the C expression of the policy's action n."""
        count = readout.weight.shape[1]
        if readout.kind == "first_spike":
            begun = self.memory.add_field(
                "uint8_t", "decoder_fired", signal.width, "whether a neuron has fired"
            )
            self.once.append(f"memset({begun}, 0, {signal.width});")
            self.comment("decoder: a neuron counts in all inner steps from its first spike on")
            self.step.append(self.format_loop(signal.width, f"{begun}[n] |= {signal.array}[n];"))
            signal = Signal(begun, signal.width, True)
        sums, drive = self.format_sums("decoder_weight", readout.weight, signal, "drive")
        scale = self.memory.format_element("decoder_scale", readout.scale)
        bias = self.memory.format_element("decoder_bias", readout.bias)
        result = drive
        if readout.kind == "linear":
            self.comment("decoder", self.last)
            self.last += sums
        else:
            self.comment("decoder")
            carried = bool(readout.sizes)
            total = self.memory.add_field("int32_t", "decoder_v", count, "integrated readout", carried)
            lines: list[str] = []
            term, change = self.make_term(f"{total}[n]", lines), self.make_term(f"{drive}[n]", lines)
            value = readout.integrate(term, change) if carried else term + change
            lines.append(f"{total}[n] = {value.text};")
            result = total
            if not carried:
                self.once.append(f"memset({total}, 0, {count} * sizeof {total}[0]);")
            elif readout.kind == "membrane" and readout.read != "last":
                wide = "int64_t" if readout.read == "mean" else "int32_t"
                result = self.memory.add_field(wide, "decoder_read", count, f"{readout.read} of the readout")
                self.once.append(f"memset({result}, 0, {count} * sizeof {result}[0]);")
                largest = f"if (k == 0 || {total}[n] > {result}[n]) {result}[n] = {total}[n];"
                lines.append(largest if readout.read == "max" else f"{result}[n] += {total}[n];")
            self.step += [*sums, self.format_loop(count, *lines)]
        self.comment("action: integers become floats", self.last)
        return f"(float){result}[n] * {scale} + {bias}"


def describe_values(network: IntegerNetwork) -> str:
    """Return the sentences of the header on the integers of ``network``."""
    return (
        "Weights are int8, in a unit of their postsynaptic neuron. A neuron's input is a whole number of this unit; its membrane"
        " has additional fraction bits. The fixed-point formats of observations and membranes fit their ranges in"
        f" {network.calibration_source}. Values out of range are clamped. An observation that is not a number counts as 0, after"
        " normalisation."
    )
