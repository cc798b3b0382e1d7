"""A network in integers as the text of ``policy.c`` and ``policy.h``."""

from __future__ import annotations

import textwrap

import torch

from spiky_rl.deploy._c_constants import format_array as floats
from spiky_rl.deploy._c_functions import ARITHMETIC, ARITHMETIC_SAID
from spiky_rl.deploy._c_text import format_comment
from spiky_rl.deploy._int8_frame import FUNCTIONS, HEADER, SOURCE
from spiky_rl.deploy._int8_memory import Int8Declarations
from spiky_rl.deploy._int8_network import IntegerNetwork
from spiky_rl.deploy._int8_stages import DECAY_BITS, NARROW, WIDE, Int8SigmaDeltaStage, Int8SpikingStage
from spiky_rl.deploy.base import ObservationNormalizer
from spiky_rl.kernels.emit import format_literal


class Int8PolicyWriter:
    """The text of one policy."""

    def __init__(
        self, network: IntegerNetwork, normaliser: ObservationNormalizer | torch.nn.Identity
    ) -> None:
        """``normaliser``: of the observations; the identity where they are taken as they are."""
        self.network, self.normaliser = network, normaliser
        self.memory = Int8Declarations()
        self.field, self.numbers, self.weight = self.memory.field, self.memory.numbers, self.memory.weight
        self.functions: dict[str, None] = {}
        self.inputs, self.outputs = network.origin.inputs, network.decoding.weight.shape[1]
        self.body = self.control_step()

    def source(self) -> str:
        """``policy.c``."""
        needed = [text for name, text in FUNCTIONS.items() if name in self.functions]
        return SOURCE.format(
            arithmetic=ARITHMETIC,
            needed="".join(needed),
            arrays="\n".join(self.memory.constants),
            body=self.body,
        )

    def header(self, usage: str) -> str:
        """``policy.h``; ``usage``: what goes in and comes out, in words."""
        return HEADER.format(
            usage=format_comment(usage),
            arithmetic=format_comment(ARITHMETIC_SAID),
            calibrated=self.network.calibrated,
            inputs=self.inputs,
            outputs=self.outputs,
            bytes=self.memory.size,
            carried=self.memory.carried if self.network.stateful else 0,
            fields=self.memory.struct,
        )

    def control_step(self) -> str:
        """The statements of `policy_step` in C."""
        network = self.network
        stages = [self.stage(i, stage) for i, stage in enumerate(network.stages)]
        before, spikes = self.encoder()
        read, begin, end = self.decoder()
        inner = "\n".join(filter(None, [spikes, *stages, self.clear_first_step_input(), read]))
        rest = ""
        if not network.stateful:
            carried = [f.name for f in self.memory.fields.values() if f.carried]
            rest = "\n".join(f"  memset(s->{name}, 0, sizeof s->{name});" for name in carried)
        loop = f"  for (int k = 0; k < {network.steps}; k++) {{\n    int events = 0;\n{_indented(inner, 4)}\n  }}"
        return "\n".join(filter(None, [rest, before, begin, loop, end]))

    def call(self, name: str) -> str:
        """The ``name`` of a function, which then belongs to the file."""
        self.functions[name] = None
        return name

    # encoder

    def encoder(self) -> tuple[str, str]:
        """C before the inner steps, and at the beginning of each."""
        encoding, first, count = self.network.encoding, self.network.stages[0], self.inputs
        lines = [f"for (int i = 0; i < {count}; i++) {{", f"  const float value = {self.observed()};"]
        factor = format_literal(float(encoding.factor[0]))
        lines.append(
            f"  const int32_t x = {self.call('whole')}(value * {factor}, {format_literal(float(encoding.limit))});"
        )
        if encoding.kind in ("direct", "sigma_delta"):
            current = self.field("int32_t", "current", first.width, "of the first layer, in its unit")
            if encoding.kind == "sigma_delta":
                held = self.field("int16_t", "reference", count, "what is known of an observation", True)
                lines += [
                    f"  const int32_t change = x - {held}[i];",
                    f"  const int32_t event = (change < 0 ? -change : change) >= {encoding.threshold} ? change : 0;",
                    f"  {held}[i] = (int16_t)({held}[i] + event);",
                ]
            event = "x" if encoding.kind == "direct" else "event"
            weight = self.weight("weight0", first.weight)
            lines += [
                f"  if ({event} != 0)",
                f"    for (int n = 0; n < {first.width}; n++) {current}[n] += {event} * {weight}[i * {first.width} + n];",
                "}",
                f"for (int n = 0; n < {first.width}; n++) {current}[n] = {self.scaled(0, first, current)} + {self.bias(0, first)};",
            ]
            start = f"memset({current}, 0, {first.width} * sizeof {current}[0]);"
            return _indented("\n".join(["// observations, once per control step", start, *lines]), 2), ""
        spikes = self.field("int32_t", "encoded", count, "what the encoder's spikes are made from")
        events = self.field("uint16_t", "event", first.weight.shape[0], "who has spiked")
        if encoding.kind == "delta":
            held = self.field("int32_t", "reference", count, "what is known of an observation", True)
            if encoding.first:
                begun = self.field("uint8_t", "begun", 1, "whether the episode has begun", True)
                lines.append(f"  if (!{begun}[0]) {held}[i] = x;")
            lines += [
                f"  int32_t count = (x - {held}[i]) / {encoding.threshold};",
                f"  count = {self.call('clamped')}(count, {self.network.steps});",
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
        return _indented("\n".join(["// observations, once per control step", *lines]), 2), inner

    def observed(self) -> str:
        """C of one observation, normalised."""
        if isinstance(self.normaliser, torch.nn.Identity):
            return "observation[i]"
        deviation = self.normaliser.std + self.normaliser.eps
        self.memory.constants += [
            floats("mean", self.normaliser.mean.detach().cpu()),
            floats("deviation", deviation.detach().cpu()),
        ]
        return "(observation[i] - mean[i]) / deviation[i]"

    def clear_first_step_input(self) -> str:
        """C after an inner step: where observations are sent in the first one alone, what is left is the bias."""
        if self.network.encoding.kind != "sigma_delta" or self.network.steps == 1:
            return ""
        first = self.network.stages[0]
        return (
            f"if (k == 0)\n  for (int n = 0; n < {first.width}; n++) s->current[n] = {self.bias(0, first)};"
        )

    # layers

    def bias(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage) -> str:
        """C of a neuron's bias in layer ``i``, a ``stage``."""
        return self.numbers(f"bias{i}", stage.bias)

    def scaled(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage, total: str) -> str:
        """C of ``total``, a sum of weights times graded inputs of layer ``i``, a ``stage``, in a membrane's unit."""
        if isinstance(stage, Int8SigmaDeltaStage):
            return f"{total}[n]"
        bits = stage.fraction - stage.source.exponent
        return f"{self.call('scaled')}({total}[n], {self.numbers(f'bits{i}', bits)})"

    def accumulate_inputs(
        self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage
    ) -> tuple[list[str], str]:
        """C that adds up what arrives at layer ``i``, a ``stage``, in an inner step, and C of what a neuron gets of it."""
        source, width, lines, terms = stage.source, stage.width, [], []
        once = i == 0 and self.network.encoding.kind in ("direct", "sigma_delta")
        matrices = [] if once or source.graded else [stage.weight]
        matrices += [] if stage.within is None else [stage.within]
        if once:
            terms.append("s->current[n]")
        elif source.graded:
            total = self.field("int32_t", "sum", width, "of weights")
            value = self.field(
                "int16_t", "value", stage.weight.shape[0], "what has been sent, event by event"
            )
            weight = self.weight(f"weight{i}", stage.weight)
            lines += [f"memset({total}, 0, {width} * sizeof {total}[0]);",
                      "for (int e = 0; e < events; e++)",
                      f"  for (int n = 0; n < {width}; n++)",
                      f"    {total}[n] += {value}[e] * {weight}[s->event[e] * {width} + n];"]  # fmt: skip
            terms += [self.scaled(i, stage, total), self.bias(i, stage)]
        if matrices:
            joined = torch.cat(matrices)
            most = max(int(joined.clamp(min=0).sum(0).max()), int((-joined).clamp(min=0).sum(0).max()))
            kind = "int16_t" if most <= NARROW else "int32_t"
            total = self.field(
                kind, "spikes" if kind == "int16_t" else "many_spikes", width, "sums of weights"
            )
            row = f"for (int n = 0; n < {width}; n++) {total}[n] = ({kind})({total}[n] + row[n]);"
            lines.append(f"memset({total}, 0, {width} * sizeof {total}[0]);")
            if not once and not source.graded:
                weight = self.weight(f"weight{i}", stage.weight)
                start = f"const int8_t *row = {weight} + s->event[e] * {width};"
                lines.append(f"for (int e = 0; e < events; e++) {{\n  {start}\n  {row}\n}}")
            if stage.within is not None:
                weight, past = self.weight(f"within{i}", stage.within), f"s->past{i}"
                start = f"const int8_t *row = {weight} + j * {width};\n    {row}"
                lines.append(
                    f"for (int j = 0; j < {stage.within.shape[0]}; j++)\n  if ({past}[j]) {{\n    {start}\n  }}"
                )
            assert isinstance(stage, Int8SpikingStage)
            gain = self.numbers(f"gain{i}", 2**stage.fraction)
            terms.append(f"{total}[n] * {gain}")
            terms += [] if once or source.graded else [self.bias(i, stage)]
        return lines, " + ".join(terms)

    def stage(self, i: int, stage: Int8SpikingStage | Int8SigmaDeltaStage) -> str:
        """C of an inner step of layer ``i``, a ``stage``."""
        width = stage.width
        if stage.delays:
            self.field(
                "uint8_t",
                f"past{i}",
                width * stage.delays,
                f"layer {i}: its last spikes, the latest first",
                True,
            )
        lines, current = self.accumulate_inputs(i, stage)
        step = (
            self.spiking(i, stage, current)
            if isinstance(stage, Int8SpikingStage)
            else self.sigma_delta_step(i, stage, current)
        )
        events = self.field("uint16_t", "event", width, "who has spiked")
        lines.append(f"for (int n = 0; n < {width}; n++) {{\n{_indented(step, 2)}\n}}")
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

    def spiking(self, i: int, stage: Int8SpikingStage, current: str) -> str:
        """C of a LIF or ALIF neuron's step in layer ``i``, a ``stage``, for its ``current``."""
        bits, kind = DECAY_BITS[stage.wide], "int32_t" if stage.wide else "int16_t"
        low, high = int(stage.fraction.min()), int(stage.fraction.max())
        shown = f"{low}" if low == high else f"{low} to {high}"
        v = self.field(
            kind, f"v{i}", stage.width, f"layer {i}: membranes, {shown} bits below a neuron's unit", True
        )
        fired = self.field("uint8_t", "fired", stage.width, "who fires")
        decay, threshold = self.numbers(f"decay{i}", stage.decay), self.numbers(
            f"threshold{i}", stage.threshold
        )
        lines = [f"const int32_t v = {self.decayed(f'{v}[n]', decay, stage.wide, bits)} + {current};"]
        limit = threshold
        if stage.adaptive:
            wide, fraction = stage.trace_wide, stage.trace_fraction
            kind, most = ("int32_t", WIDE) if wide else ("int16_t", NARROW)
            a = self.field(
                kind, f"a{i}", stage.width, f"layer {i}: traces of own spikes, 1 is {2 ** fraction}", True
            )
            own = self.numbers(f"trace_decay{i}", stage.trace_decay)
            adaptation = self.numbers(f"adaptation{i}", stage.adaptation)
            lines.append(f"const int32_t a = {self.decayed(f'{a}[n]', own, wide, DECAY_BITS[wide])};")
            raised = self.decayed("a", adaptation, wide, fraction)
            lines.append(f"const int32_t threshold = {threshold} + {raised};")
            limit = "threshold"
        after = "0" if stage.zero else f"v - {threshold}"
        clamped = self.call("clamped")
        lines.append(f"const int32_t spike = v >= {limit};")
        lines.append(
            f"{v}[n] = ({'int32_t' if stage.wide else 'int16_t'}){clamped}(spike ? {after} : v, {WIDE if stage.wide else NARROW});"
        )
        if stage.adaptive:
            lines.append(f"{a}[n] = ({kind}){clamped}(a + spike * {2 ** stage.trace_fraction}, {most});")
        lines.append(f"{fired}[n] = (uint8_t)spike;")
        return "\n".join(lines)

    def decayed(self, x: str, factor: str, wide: bool, bits: int) -> str:
        """C of a product, shifted right and rounded.

        Args:
            x: C of a state.
            factor: C of what it is multiplied by.
            wide: Whether the state has 32 bits, and the product 64.
            bits: To shift by.
        """
        if wide:
            return f"{self.call('multiplied')}({x}, {factor}, {bits}, {WIDE})"
        return f"(({x} * {factor} + {1 << (bits - 1)}) >> {bits})"

    def sigma_delta_step(self, i: int, stage: Int8SigmaDeltaStage, current: str) -> str:
        """C of a sigma-delta neuron's step in layer ``i``, a ``stage``, for its ``current``."""
        total = self.field(
            "int32_t", f"total{i}", stage.width, f"layer {i}: sums, in a neuron's own unit", True
        )
        sent = self.field(
            "int16_t",
            f"sent{i}",
            stage.width,
            f"layer {i}: what has been sent, 2^{stage.output_format.exponent} is 1",
            True,
        )
        value = self.field("int16_t", "value", stage.width, "what has been sent, event by event")
        factor = self.numbers(f"factor{i}", stage.factor)
        threshold = self.numbers(f"send{i}", stage.threshold)
        y = f"{self.call('multiplied')}(total, {factor}, {stage.shift}, {stage.output_format.limit})"
        lines = [
            f"const int32_t total = {self.call('clamped')}({total}[n] + {current}, {2 * WIDE});",
            f"const int32_t y = {y};",
            f"const int32_t change = {'(y < 0 ? 0 : y)' if stage.rectified else 'y'} - {sent}[n];",
            f"const int32_t event = (change < 0 ? -change : change) >= {threshold} ? change : 0;",
            f"{total}[n] = total;",
            f"{sent}[n] = (int16_t)({sent}[n] + event);",
            f"{value}[n] = (int16_t)event;",
        ]
        return "\n".join(lines)

    # decoder

    def decoder(self) -> tuple[str, str, str]:
        """C at the end of an inner step, before the inner steps and after them."""
        readout, count = self.network.decoding, self.outputs
        weight = self.weight("readout", readout.weight)
        each = f"for (int f = 0; f < {count}; f++)"
        total = self.field("int32_t", "output", count, "what is read", bool(readout.sizes))
        event = f"s->value[e] * {weight}" if readout.source.graded else weight
        add = f"for (int e = 0; e < events; e++)\n  {each} {{0}}[f] += {event}[s->event[e] * {count} + f];"
        self.memory.constants += [floats("scale", readout.scale), floats("offset", readout.bias)]
        begin, result = "", f"{total}[f]"
        if readout.kind == "rate":
            begin, lines = f"  memset({total}, 0, sizeof {total});", [add.format(total)]
        elif readout.kind == "linear":
            begin = f"  memset({total}, 0, sizeof {total});"
            lines = [f"if (k == {self.network.steps - 1})", _indented(add.format(total), 2)]
        else:
            drive = self.field("int32_t", "drive", count, "what arrives at the readout")
            lines = [f"memset({drive}, 0, sizeof {drive});", add.format(drive)]
            if readout.kind == "membrane":
                decayed = self.decayed(f"{total}[f]", str(readout.decay), True, DECAY_BITS[True])
                update = f"{self.call('clamped')}({decayed} + {drive}[f] * {2 ** readout.fraction}, {WIDE})"
            else:
                update = f"{self.call('clamped')}({total}[f] + {drive}[f], {2 * WIDE})"
            lines.append(f"{each} {total}[f] = {update};")
            if readout.read == "mean":
                whole = self.field(
                    "int64_t", "mean_output", count, "what is read, added up over the inner steps"
                )
                begin = f"  memset({whole}, 0, sizeof {whole});"
                lines.append(f"{each} {whole}[f] += {total}[f];")
                result = f"{whole}[f]"
            elif readout.read == "max":
                best = self.field("int32_t", "best", count, "the largest of what is read")
                lines.append(f"{each}\n  if (k == 0 || {total}[f] > {best}[f]) {best}[f] = {total}[f];")
                result = f"{best}[f]"
        end = f"  {each} {{\n    const float y = (float){result} * scale[f];\n    action[f] = y + offset[f];\n  }}"
        return "\n".join(["\n// readout", *lines]), begin, f"\n{end}"


def _indented(text: str, spaces: int) -> str:
    return textwrap.indent(text, " " * spaces)
