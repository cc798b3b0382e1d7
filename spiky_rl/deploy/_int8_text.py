"""Writer of ``policy.c`` and ``policy.h`` from a quantised network."""

from __future__ import annotations

import textwrap

import torch
from torch import Tensor

from spiky_rl.deploy._c_memory import format_floats
from spiky_rl.deploy._c_functions import ARITHMETIC, ARITHMETIC_TEXT
from spiky_rl.deploy._c_text import format_comment
from spiky_rl.deploy._int8_frame import FUNCTIONS, HEADER, SOURCE
from spiky_rl.deploy._int8_memory import Int8Declarations
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy._int8_stages import (
    DECAY_BITS,
    NARROW_LIMIT,
    WIDE_LIMIT,
    Int8SigmaDeltaStage,
    Int8SpikingStage,
)
from spiky_rl.kernels.emit import format_literal


class Int8PolicyWriter:
    """Writer of one policy."""

    def __init__(self, network: IntegerNetwork, normalisation: tuple[Tensor, Tensor] | None) -> None:
        """Write the policy of ``network``; ``normalisation``: mean and divisor of an observation, [O] each."""
        self.network, self.normalisation = network, normalisation
        self.memory = Int8Declarations()
        self.add_field, self.add_values, self.add_weight = (
            self.memory.add_field,
            self.memory.add_values,
            self.memory.add_weight,
        )
        self.functions: dict[str, None] = {}
        self.inputs, self.outputs = network.origin.inputs, network.decoding.weight.shape[1]
        self.body = self.format_control_step()

    def build_source(self) -> str:
        """Return the text of ``policy.c``."""
        needed = [text for name, text in FUNCTIONS.items() if name in self.functions]
        return SOURCE.format(
            arithmetic=ARITHMETIC,
            needed="".join(needed),
            arrays="\n".join(self.memory.constants),
            body=self.body,
        )

    def build_header(self, usage: str) -> str:
        """Return the text of ``policy.h``; ``usage``: description of inputs and outputs."""
        return HEADER.format(
            usage=format_comment(usage),
            arithmetic=format_comment(ARITHMETIC_TEXT),
            calibrated=self.network.calibration_source,
            inputs=self.inputs,
            outputs=self.outputs,
            bytes=self.memory.size,
            carried=self.memory.carried if self.network.stateful else 0,
            fields=self.memory.struct,
        )

    def format_control_step(self) -> str:
        """Return the statements of `policy_step`."""
        network = self.network
        stages = [self.format_stage(i, stage) for i, stage in enumerate(network.stages)]
        before, spikes = self.format_encoder()
        read, begin, end = self.format_decoder()
        inner = "\n".join(filter(None, [spikes, *stages, self.clear_first_step_input(), read]))
        rest = ""
        if not network.stateful:
            carried = [f.name for f in self.memory.fields.values() if f.carried]
            rest = "\n".join(f"  memset(s->{name}, 0, sizeof s->{name});" for name in carried)
        loop = (
            f"  for (int k = 0; k < {network.steps}; k++) {{\n    int events = 0;\n{_indent(inner, 4)}\n  }}"
        )
        return "\n".join(filter(None, [rest, before, begin, loop, end]))

    def use_function(self, name: str) -> str:
        """Add the function ``name`` of `FUNCTIONS` to the file and return its name."""
        self.functions[name] = None
        return name

    # encoder

    def format_encoder(self) -> tuple[str, str]:
        """Return C that precedes the inner steps, and C that begins each of them."""
        encoding, first, count = self.network.encoding, self.network.stages[0], self.inputs
        lines = [
            f"for (int i = 0; i < {count}; i++) {{",
            f"  const float value = {self.format_observation()};",
        ]
        factor = format_literal(float(encoding.factor[0]))
        lines.append(
            f"  const int32_t x = {self.use_function('whole')}(value * {factor}, {format_literal(float(encoding.limit))});"
        )
        if encoding.kind in ("direct", "sigma_delta"):
            current = self.add_field(
                "int32_t", "current", first.width, "current of layer 0, in a neuron's unit"
            )
            if encoding.kind == "sigma_delta":
                held = self.add_field(
                    "int16_t", "reference", count, "the encoder's reference of an observation", True
                )
                lines += [
                    f"  const int32_t change = x - {held}[i];",
                    f"  const int32_t event = (change < 0 ? -change : change) >= {encoding.threshold} ? change : 0;",
                    f"  {held}[i] = (int16_t)({held}[i] + event);",
                ]
            event = "x" if encoding.kind == "direct" else "event"
            weight = self.add_weight("weight0", first.weight)
            lines += [
                f"  if ({event} != 0)",
                f"    for (int n = 0; n < {first.width}; n++) {current}[n] += {event} * {weight}[i * {first.width} + n];",
                "}",
                f"for (int n = 0; n < {first.width}; n++) {current}[n] = {self.format_scaled(0, first, current)} + {self.format_bias(0, first)};",
            ]
            start = f"memset({current}, 0, {first.width} * sizeof {current}[0]);"
            return _indent("\n".join(["// observations, once per control step", start, *lines]), 2), ""
        meaning = "spike counts" if encoding.kind == "delta" else "spike probabilities"
        spikes = self.add_field(
            "int32_t", "encoded", count, f"{meaning} of the encoder, negative in the second channel"
        )
        events = self.add_field("uint16_t", "event", first.weight.shape[0], "channels with an event")
        if encoding.kind == "delta":
            held = self.add_field(
                "int32_t", "reference", count, "the encoder's reference of an observation", True
            )
            if encoding.first:
                begun = self.add_field("uint8_t", "begun", 1, "whether the episode has begun", True)
                lines.append(f"  if (!{begun}[0]) {held}[i] = x;")
            lines += [
                f"  int32_t count = (x - {held}[i]) / {encoding.threshold};",
                f"  count = {self.use_function('clamped')}(count, {self.network.steps});",
                f"  {held}[i] += count * {encoding.threshold};",
                f"  {spikes}[i] = count;",
            ]
            on, off = f"{spikes}[i] > k", f"-{spikes}[i] > k"
        else:
            assert encoding.noise is not None
            lines.append(f"  {spikes}[i] = x;")
            self.memory.add("noise", encoding.noise)
            on = f"noise[k * {2 * count} + i] < {spikes}[i]"
            off = f"noise[k * {2 * count} + {count} + i] < -{spikes}[i]"
        lines.append("}")
        if encoding.kind == "delta" and encoding.first:
            lines.append("s->begun[0] = 1;")
        inner = (
            f"for (int i = 0; i < {count}; i++) {{\n  if ({on}) {events}[events++] = (uint16_t)i;\n"
            f"  if ({off}) {events}[events++] = (uint16_t)(i + {count});\n}}"
        )
        return _indent("\n".join(["// observations, once per control step", *lines]), 2), inner

    def format_observation(self) -> str:
        """Return the C expression of a normalised observation."""
        if self.normalisation is None:
            return "observation[i]"
        mean, deviation = self.normalisation
        self.memory.constants += [format_floats("mean", mean), format_floats("deviation", deviation)]
        return "(observation[i] - mean[i]) / deviation[i]"

    def clear_first_step_input(self) -> str:
        """Return C after an inner step that leaves only the bias, if the encoder sends in the first inner step alone."""
        if self.network.encoding.kind != "sigma_delta" or self.network.steps == 1:
            return ""
        first = self.network.stages[0]
        return f"if (k == 0)\n  for (int n = 0; n < {first.width}; n++) s->current[n] = {self.format_bias(0, first)};"

    # layers

    def format_bias(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage) -> str:
        """Return the C expression of a neuron's bias in layer ``i``."""
        return self.add_values(f"bias{i}", stage.bias)

    def format_scaled(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage, total: str) -> str:
        """Return the C expression of ``total``, layer ``i``'s sums of weights times graded inputs, in the unit of a neuron's state."""
        if isinstance(stage, Int8SigmaDeltaStage):
            return f"{total}[n]"
        bits = stage.fraction - stage.source.exponent
        return f"{self.use_function('scaled')}({total}[n], {self.add_values(f'bits{i}', bits)})"

    def accumulate_inputs(
        self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage
    ) -> tuple[list[str], str]:
        """Return C that sums the inputs of layer ``i`` in an inner step, and the C expression of a neuron's current."""
        source, width, lines, terms = stage.source, stage.width, [], []
        once = i == 0 and self.network.encoding.kind in ("direct", "sigma_delta")
        matrices = [] if once or source.graded else [stage.weight]
        matrices += [] if stage.within is None else [stage.within]
        if once:
            terms.append("s->current[n]")
        elif source.graded:
            total = self.add_field("int32_t", "sum", width, "sums of weights times values")
            value = self.add_field("int16_t", "value", stage.weight.shape[0], "values of the events")
            weight = self.add_weight(f"weight{i}", stage.weight)
            lines += [f"memset({total}, 0, {width} * sizeof {total}[0]);",
                      "for (int e = 0; e < events; e++)",
                      f"  for (int n = 0; n < {width}; n++)",
                      f"    {total}[n] += {value}[e] * {weight}[s->event[e] * {width} + n];"]  # fmt: skip
            terms += [self.format_scaled(i, stage, total), self.format_bias(i, stage)]
        if matrices:
            joined = torch.cat(matrices)
            most = max(int(joined.clamp(min=0).sum(0).max()), int((-joined).clamp(min=0).sum(0).max()))
            kind = "int16_t" if most <= NARROW_LIMIT else "int32_t"
            total = self.add_field(
                kind, "spikes" if kind == "int16_t" else "many_spikes", width, "sums of weights"
            )
            row = f"for (int n = 0; n < {width}; n++) {total}[n] = ({kind})({total}[n] + row[n]);"
            lines.append(f"memset({total}, 0, {width} * sizeof {total}[0]);")
            if not once and not source.graded:
                weight = self.add_weight(f"weight{i}", stage.weight)
                start = f"const int8_t *row = {weight} + s->event[e] * {width};"
                lines.append(f"for (int e = 0; e < events; e++) {{\n  {start}\n  {row}\n}}")
            if stage.within is not None:
                weight, past = self.add_weight(f"within{i}", stage.within), f"s->past{i}"
                start = f"const int8_t *row = {weight} + j * {width};\n    {row}"
                lines.append(
                    f"for (int j = 0; j < {stage.within.shape[0]}; j++)\n  if ({past}[j]) {{\n    {start}\n  }}"
                )
            assert isinstance(stage, Int8SpikingStage)
            gain = self.add_values(f"gain{i}", 2**stage.fraction)
            terms.append(f"{total}[n] * {gain}")
            terms += [] if once or source.graded else [self.format_bias(i, stage)]
        return lines, " + ".join(terms)

    def format_stage(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage) -> str:
        """Return C of an inner step of layer ``i``."""
        width = stage.width
        if stage.delays:
            self.add_field(
                "uint8_t",
                f"past{i}",
                width * stage.delays,
                f"layer {i}: last spikes, the latest first",
                True,
            )
        lines, current = self.accumulate_inputs(i, stage)
        step = (
            self.format_spiking_step(i, stage, current)
            if isinstance(stage, Int8SpikingStage)
            else self.format_sigma_delta_step(i, stage, current)
        )
        events = self.add_field("uint16_t", "event", width, "channels with an event")
        lines.append(f"for (int n = 0; n < {width}; n++) {{\n{_indent(step, 2)}\n}}")
        lines.append("events = 0;")
        if isinstance(stage, Int8SpikingStage):
            lines.append(
                f"for (int n = 0; n < {width}; n++) {{\n  {events}[events] = (uint16_t)n;\n  events += s->fired[n];\n}}"
            )
        else:
            lines.append(f"for (int n = 0; n < {width}; n++) {{\n  const int16_t change = s->value[n];\n  {events}[events] = (uint16_t)n;\n"
                         "  s->value[events] = change;\n  events += change != 0;\n}")  # fmt: skip
        if stage.delays > 1:
            rest = width * (stage.delays - 1)
            lines.append(f"memmove(s->past{i} + {width}, s->past{i}, {rest});")
        if stage.delays:
            lines.append(f"memcpy(s->past{i}, s->fired, {width});")
        return "\n".join([f"\n// {stage.place}", *lines])

    def format_spiking_step(self, i: int, stage: Int8SpikingStage, current: str) -> str:
        """Return C of a LIF or ALIF neuron's step in layer ``i``; ``current``: C expression of its current."""
        bits, kind = DECAY_BITS[stage.wide], "int32_t" if stage.wide else "int16_t"
        low, high = int(stage.fraction.min()), int(stage.fraction.max())
        shown = f"{low}" if low == high else f"{low} to {high}"
        v = self.add_field(
            kind,
            f"v{i}",
            stage.width,
            f"layer {i}: membranes, {shown} fraction bits below a neuron's unit",
            True,
        )
        fired = self.add_field("uint8_t", "fired", stage.width, "spikes of a layer")
        decay, threshold = self.add_values(f"decay{i}", stage.decay), self.add_values(
            f"threshold{i}", stage.threshold
        )
        lines = [f"const int32_t v = {self.format_decay(f'{v}[n]', decay, stage.wide, bits)} + {current};"]
        limit = threshold
        if stage.adaptive:
            wide, fraction = stage.trace_wide, stage.trace_fraction
            kind, most = ("int32_t", WIDE_LIMIT) if wide else ("int16_t", NARROW_LIMIT)
            a = self.add_field(
                kind,
                f"a{i}",
                stage.width,
                f"layer {i}: traces of a neuron's spikes; {2 ** fraction} is one spike",
                True,
            )
            own = self.add_values(f"trace_decay{i}", stage.trace_decay)
            adaptation = self.add_values(f"adaptation{i}", stage.adaptation)
            lines.append(f"const int32_t a = {self.format_decay(f'{a}[n]', own, wide, DECAY_BITS[wide])};")
            raised = self.format_decay("a", adaptation, wide, fraction)
            lines.append(f"const int32_t threshold = {threshold} + {raised};")
            limit = "threshold"
        after = "0" if stage.zero else f"v - {threshold}"
        clamped = self.use_function("clamped")
        lines.append(f"const int32_t spike = v >= {limit};")
        lines.append(
            f"{v}[n] = ({'int32_t' if stage.wide else 'int16_t'}){clamped}(spike ? {after} : v, {WIDE_LIMIT if stage.wide else NARROW_LIMIT});"
        )
        if stage.adaptive:
            lines.append(f"{a}[n] = ({kind}){clamped}(a + spike * {2 ** stage.trace_fraction}, {most});")
        lines.append(f"{fired}[n] = (uint8_t)spike;")
        return "\n".join(lines)

    def format_decay(self, x: str, factor: str, wide: bool, bits: int) -> str:
        """Return the C expression of x * factor / 2^bits, rounded.

        Args:
            x: C expression of a state.
            factor: C expression.
            wide: Whether the state has 32 bits, so that the product needs 64.
        """
        if wide:
            return f"{self.use_function('multiplied')}({x}, {factor}, {bits}, {WIDE_LIMIT})"
        return f"(({x} * {factor} + {1 << (bits - 1)}) >> {bits})"

    def format_sigma_delta_step(self, i: int, stage: Int8SigmaDeltaStage, current: str) -> str:
        """Return C of a sigma-delta neuron's step in layer ``i``; ``current``: C expression of its current."""
        total = self.add_field(
            "int32_t", f"total{i}", stage.width, f"layer {i}: sums, in a neuron's unit", True
        )
        sent = self.add_field(
            "int16_t",
            f"sent{i}",
            stage.width,
            f"layer {i}: values sent so far; 2^{stage.output_format.exponent} is 1",
            True,
        )
        value = self.add_field("int16_t", "value", stage.width, "values of the events")
        factor = self.add_values(f"factor{i}", stage.factor)
        threshold = self.add_values(f"send{i}", stage.threshold)
        y = f"{self.use_function('multiplied')}(total, {factor}, {stage.shift}, {stage.output_format.limit})"
        lines = [
            f"const int32_t total = {self.use_function('clamped')}({total}[n] + {current}, {2 * WIDE_LIMIT});",
            f"const int32_t y = {y};",
            f"const int32_t change = {'(y < 0 ? 0 : y)' if stage.rectified else 'y'} - {sent}[n];",
            f"const int32_t event = (change < 0 ? -change : change) >= {threshold} ? change : 0;",
            f"{total}[n] = total;",
            f"{sent}[n] = (int16_t)({sent}[n] + event);",
            f"{value}[n] = (int16_t)event;",
        ]
        return "\n".join(lines)

    # decoder

    def format_decoder(self) -> tuple[str, str, str]:
        """Return C at the end of an inner step, C before the inner steps, and C after them."""
        readout, count = self.network.decoding, self.outputs
        weight = self.add_weight("readout", readout.weight)
        each = f"for (int f = 0; f < {count}; f++)"
        total = self.add_field("int32_t", "output", count, "readout", bool(readout.sizes))
        event = f"s->value[e] * {weight}" if readout.source.graded else weight
        add = f"for (int e = 0; e < events; e++)\n  {each} {{0}}[f] += {event}[s->event[e] * {count} + f];"
        self.memory.constants += [
            format_floats("scale", readout.scale),
            format_floats("offset", readout.bias),
        ]
        begin, result = "", f"{total}[f]"
        if readout.kind == "rate":
            begin, lines = f"  memset({total}, 0, sizeof {total});", [add.format(total)]
        elif readout.kind == "linear":
            begin = f"  memset({total}, 0, sizeof {total});"
            lines = [f"if (k == {self.network.steps - 1})", _indent(add.format(total), 2)]
        else:
            drive = self.add_field("int32_t", "drive", count, "input of the readout")
            lines = [f"memset({drive}, 0, sizeof {drive});", add.format(drive)]
            if readout.kind == "membrane":
                decayed = self.format_decay(f"{total}[f]", str(readout.decay), True, DECAY_BITS[True])
                update = f"{self.use_function('clamped')}({decayed} + {drive}[f] * {2 ** readout.fraction}, {WIDE_LIMIT})"
            else:
                update = f"{self.use_function('clamped')}({total}[f] + {drive}[f], {2 * WIDE_LIMIT})"
            lines.append(f"{each} {total}[f] = {update};")
            if readout.read == "mean":
                whole = self.add_field(
                    "int64_t", "mean_output", count, "sum of the readout over the inner steps"
                )
                begin = f"  memset({whole}, 0, sizeof {whole});"
                lines.append(f"{each} {whole}[f] += {total}[f];")
                result = f"{whole}[f]"
            elif readout.read == "max":
                best = self.add_field("int32_t", "best", count, "maximum of the readout over the inner steps")
                lines.append(f"{each}\n  if (k == 0 || {total}[f] > {best}[f]) {best}[f] = {total}[f];")
                result = f"{best}[f]"
        end = f"  {each} {{\n    const float y = (float){result} * scale[f];\n    action[f] = y + offset[f];\n  }}"
        return "\n".join(["\n// readout", *lines]), begin, f"\n{end}"


def _indent(text: str, spaces: int) -> str:
    return textwrap.indent(text, " " * spaces)
