"""Writer of a spiking network in C: loops over inner steps, layers and neurons.

A signal is a dense array; before a linear map reads it, a scan lists its non-zero channels, the events. Sums have the order of the
`cpu` backend: bias first, then the events by channel, so they are equal to the last bit.
"""

# pylint: disable=unidiomatic-typecheck  # a subclass may compute something else

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.decoders.first_spike import FirstSpike
from spiky_rl.codecs.decoders.linear import LinearDecoder
from spiky_rl.codecs.decoders.membrane import Membrane
from spiky_rl.codecs.decoders.population_vector import PopulationVector
from spiky_rl.codecs.decoders.rate import RateDecoder
from spiky_rl.codecs.decoders.sigma_delta import SigmaDeltaDecoder
from spiky_rl.codecs.encoders.concat import ConcatEncoder
from spiky_rl.codecs.encoders.delta import Delta
from spiky_rl.codecs.encoders.direct import Direct
from spiky_rl.codecs.encoders.latency import Latency
from spiky_rl.codecs.encoders.population import Population
from spiky_rl.codecs.encoders.rate import RateEncoder
from spiky_rl.codecs.encoders.sigma_delta import SigmaDeltaEncoder
from spiky_rl.config import registry
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy._c_memory import Declarations, split_synapses
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._program import ExportError
from spiky_rl.kernels.convolution import LARGEST_POOL, adds_by_columns
from spiky_rl.kernels.emit import format_literal
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.metrics.sparse_storage import WeightStorage
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.networks.reservoir import Reservoir
from spiky_rl.neurons.base import Neuron


@dataclass(frozen=True)
class Signal:
    """A dense array of channels."""

    array: str
    """C expression of the array."""
    width: int
    binary: bool
    """Whether its elements are 0 or 1, of the type uint8_t; else they are floats."""
    constant: bool = False
    """Whether it is the same in all inner steps."""


class NetworkWriter:
    """Writer of the statements of a control step. They are collected in `once`, `step` and `last`."""

    zero = "0.0f"
    """0 in the type of graded signals."""

    def __init__(self, width: int) -> None:
        """Begin a network; ``width``: floats in a vector of the `cpu` backend, which does not fuse products with fewer outputs."""
        self.memory = Declarations()
        self.width = width
        self.steps = 1
        self.stateful = False
        self.once: list[str] = []
        """Statements before the inner steps."""
        self.step: list[str] = []
        """Statements of each inner step k."""
        self.last: list[str] = []
        """Statements after the inner steps."""

    def write_network(self, network: SpikingNetwork, observed: str, count: int) -> Signal:
        """Write ``network``, whose input is the C array ``observed`` of ``count`` values, and return its features."""
        self.steps, self.stateful = network.steps, network.stateful
        signal = self.write_encoder("encoder", network.encoder, Signal(observed, count, False, True))
        if isinstance(network, Reservoir):
            return self.write_reservoir(network, signal)
        assert isinstance(network, FeedForward)
        for i, layer in enumerate(network.layers):
            path = f"layers_{i}"
            self.comment(f"layer {i}: {layer.width} {type(layer.neuron.source_neuron).__name__} neurons")
            current = self.write_connection(f"{path}_connection", layer.connection, signal)
            if layer.recurrent is not None and layer.loop is not None:
                weight = layer.recurrent.synapses()
                current = self.write_feedback(path, layer.width, layer.loop, weight, current)
            signal = self.write_neurons(
                path, layer.neuron, layer.parameters_of_neuron(), layer.width, current
            )
            if layer.loop is not None:
                self.write_memory(path, layer.width, layer.loop, signal)
        return self.write_decoder(network.decoder, signal)

    def comment(self, text: str, *blocks: list[str]) -> None:
        """Write a comment before the statements that follow in ``blocks``, by default in each inner step."""
        for block in blocks or (self.step,):
            block += [f"\n// {text}"]

    # signals

    def format_loop(self, count: int | str, *body: str, index: str = "n") -> str:
        """Return a C loop of ``index`` to ``count``."""
        head = f"for (int {index} = 0; {index} < {count}; {index}++)"
        if len(body) == 1 and "\n" not in body[0]:
            return f"{head} {body[0]}"
        return "\n".join([f"{head} {{", *(textwrap.indent(line, "  ") for line in body), "}"])

    def list_events(self, signal: Signal) -> str:
        """Return C that lists the events of ``signal``."""
        self.memory.channels = max(self.memory.channels, signal.width)
        event = self.memory.add_field(
            "event_index", "event", signal.width, "channels with an event, in order"
        )
        there = f"{signal.array}[c]" if signal.binary else f"{signal.array}[c] != {self.zero}"
        return "events = 0;\n" + self.format_loop(
            signal.width, f"{event}[events] = (event_index)c;", f"events += {there};", index="c"
        )

    def format_product(
        self, path: str, weight: Tensor, bias: Tensor | None, signal: Signal, target: str
    ) -> list[str]:
        """Return C that sets ``target`` to the product of ``signal`` and ``weight`` [C, N], plus ``bias`` [N].

        Args:
            path: Name of the weights.
            weight: Weights; sparse ones are stored as lists of synapses.
            bias: Constant terms, or None.
            signal: The input.
            target: C expression of an array of floats.
        """
        weight = weight.detach().cpu()
        inputs, outputs = weight.shape
        size = f"{outputs} * sizeof {target}[0]"
        if bias is None or not bias.any():
            lines = [f"memset({target}, 0, {size});"]
        else:
            constant = self.memory.add_constant(f"{path.removesuffix('_weight')}_bias", bias)
            lines = [f"memcpy({target}, {constant}, {size});"]
        lines.append(self.list_events(signal))
        zeros = int((weight == 0).sum())
        fused = outputs >= self.width and not signal.binary
        if outputs > 1 and zeros < weight.numel() and WeightStorage(inputs, outputs, zeros).index > 0:
            return [*lines, self._format_synapses(path, weight, signal, target, fused)]
        array = self.memory.add_constant(path, weight)
        if signal.binary:
            add, x = self.memory.use_function("add_rows"), ""
        else:
            add = self.memory.use_function("add_products" if fused else "add_few_products")
            x = f"{signal.array}, "
        return [*lines, f"{add}({target}, {array}, {x}s->event, events, {outputs});"]

    def _format_synapses(self, path: str, weight: Tensor, signal: Signal, target: str, fused: bool) -> str:
        """Return C that adds the lists of synapses of the events to ``target``."""
        values, neurons, starts = split_synapses(weight)
        array, neuron, start = (
            self.memory.add_constant(f"{path}{name}", numbers)
            for name, numbers in (("", values), ("_neuron", neurons), ("_start", starts))
        )
        total = f"{target}[{neuron}[i]]"
        if signal.binary:
            text = f"{total} += {array}[i];"
        elif fused:
            self.memory.use_function("MULTIPLY_ADD")
            text = f"{total} = MULTIPLY_ADD({signal.array}[c], {array}[i], {total});"
        else:
            text = f"{total} += {signal.array}[c] * {array}[i];"
        body = f"for (int i = {start}[c]; i < {start}[c + 1]; i++) {text}"
        return self.format_loop("events", "const int c = s->event[e];", body, index="e")

    # encoders

    def write_encoder(self, path: str, encoder: Any, x: Signal) -> Signal:
        """Write ``encoder`` of the observation ``x`` and return its signal. Raises ExportError if it has no form in C."""
        if type(encoder) is Direct:
            return x
        if type(encoder) not in ENCODERS:
            raise ExportError(
                f"agent.network.encoder: no form in C; allowed: {', '.join(registry.list_names('encoders'))}"
            )
        self.comment(f"{path}: {type(encoder).__name__}, {encoder.width} channels")
        self.comment(f"{path}: {type(encoder).__name__}", self.once)
        kind = "uint8_t" if encoder.binary else "float"
        array = self.memory.add_field(kind, path, encoder.width, "signal of the encoder in an inner step")
        self._write_channels(path, encoder, x, array, 0, encoder.binary)
        return Signal(array, encoder.width, encoder.binary)

    def _write_channels(
        self, path: str, encoder: Any, x: Signal, array: str, first: int, binary: bool
    ) -> None:
        """Write an encoder's channels from ``first`` on into ``array``, of ``binary`` or float elements."""
        cast, at = "(uint8_t)" if binary else "(float)", f"{first} + " if first else ""
        if type(encoder) is ConcatEncoder:
            self._write_channels(f"{path}_first", encoder.first, x, array, first, binary)
            self._write_channels(
                f"{path}_second", encoder.second, x, array, first + encoder.first.width, binary
            )
        elif type(encoder) is Direct:
            self.once.append(self.format_loop(x.width, f"{array}[{at}c] = {x.array}[c];", index="c"))
        elif type(encoder) in ENCODERS:
            ENCODERS[type(encoder)](self, path, encoder, x, array, at, cast)
        else:
            raise ExportError(
                f"agent.network.encoder: no form in C; allowed: {', '.join(registry.list_names('encoders'))}"
            )

    def _write_delta(self, path: str, encoder: Delta, x: Signal, array: str, at: str, cast: str) -> None:
        count = self.memory.add_field(
            "float", f"{path}_count", x.width, "events of an observation in this control step"
        )
        reference = self.memory.add_field(
            "float", f"{path}_reference", x.width, "receiver's copy of an observation", True
        )
        larger, smaller = self.memory.use_function("larger"), self.memory.use_function("smaller")
        threshold, steps = format_literal(encoder.threshold), format_literal(float(self.steps))
        start: list[str] = []
        if (
            len(encoder.state_sizes) > 1 and self.stateful
        ):  # else every control step begins at a reference of 0
            begun = self.memory.add_field("float", f"{path}_begun", 1, "1 once the episode has begun", True)
            start = [f"if (!({begun}[0] > 0.0f)) {reference}[c] = {x.array}[c];"]
        change = f"({x.array}[c] - {reference}[c]) / {threshold}"
        self.once.append(
            self.format_loop(
                x.width,
                *start,
                f"{count}[c] = (float)(int){smaller}({larger}({change}, -{steps}), {steps});",
                f"{reference}[c] = {reference}[c] + {threshold} * {count}[c];",
                index="c",
            )
        )
        if start:
            self.once.append(f"{begun}[0] = 1.0f;")
        self.step.append(
            self.format_loop(
                x.width,
                f"{array}[{at}c] = {cast}({count}[c] > (float)k);",
                f"{array}[{at}{x.width} + c] = {cast}(-{count}[c] > (float)k);",
                index="c",
            )
        )

    def _write_sigma_delta(
        self, path: str, encoder: SigmaDeltaEncoder, x: Signal, array: str, at: str, _cast: str
    ) -> None:
        reference = self.memory.add_field(
            "float", f"{path}_reference", x.width, "receiver's copy of an observation", True
        )
        size = f"{self.memory.use_function('absolute')}(change)"
        self.once.append(
            self.format_loop(
                x.width,
                f"const float change = {x.array}[c] - {reference}[c];",
                f"{array}[{at}c] = {size} >= {format_literal(encoder.threshold)} ? change : 0.0f;",
                f"{reference}[c] = {reference}[c] + {array}[{at}c];",
                index="c",
            )
        )
        if self.steps > 1:  # nothing is sent after the first inner step
            self.step.append(
                f"if (k == 1) memset({array}{f' + {at[:-3]}' if at else ''}, 0, {x.width} * sizeof {array}[0]);"
            )

    def _write_rate(self, path: str, encoder: RateEncoder, x: Signal, array: str, at: str, cast: str) -> None:
        rate = self.memory.add_field(
            "float", f"{path}_rate", x.width, "probability of a spike, negative for the second channel"
        )
        noise = self.memory.add_constant(f"{path}_noise", encoder.noise)
        most, smaller = format_literal(encoder.max_rate), self.memory.use_function("smaller")
        self.once.append(
            self.format_loop(
                x.width,
                f"{rate}[c] = {x.array}[c] * {format_literal(encoder.max_rate / encoder.span)};",
                index="c",
            )
        )
        row = f"{noise}[k * {2 * x.width} + "
        self.step.append(
            self.format_loop(
                x.width,
                f"{array}[{at}c] = {cast}({row}c] < {smaller}({rate}[c], {most}));",
                f"{array}[{at}{x.width} + c] = {cast}({row}{x.width} + c] < {smaller}(-{rate}[c], {most}));",
                index="c",
            )
        )

    def _write_fields(self, path: str, x: Signal, fields: int, distance: str) -> str:
        """Write the activities of receptive fields, ``fields`` per observation, and return their array.

        ``distance``: C expression of the normalised distance of observation x to the centre of field j, which is its f-th.
        """
        activity = self.memory.add_field(
            "float", f"{path}_activity", x.width * fields, "activity of a receptive field"
        )
        exponential = self.memory.use_function("exponential")
        inner = self.format_loop(
            fields,
            f"const int j = c * {fields} + f;",
            f"const float distance = {distance};",
            f"{activity}[j] = {exponential}(-0.5f * (distance * distance));",
            index="f",
        )
        self.once.append(self.format_loop(x.width, inner, index="c"))
        return activity

    def _write_population(
        self, path: str, encoder: Population, x: Signal, array: str, at: str, cast: str
    ) -> None:
        centre = self.memory.format_element(f"{path}_centre", encoder.centre, "j")
        deviation = self.memory.format_element(f"{path}_deviation", encoder.log_deviation.exp(), "j")
        fields = encoder.centre.shape[1]
        activity = self._write_fields(path, x, fields, f"({x.array}[c] - {centre}) / {deviation}")
        if encoder.mode == "poisson":
            noise = self.memory.add_constant(f"{path}_noise", encoder.noise)
            spike = f"{array}[{at}j] = {cast}({activity}[j] - {noise}[k * {encoder.width} + j] >= 0.0f);"
            self.step.append(self.format_loop(encoder.width, spike, index="j"))
            return
        v = self.memory.add_field("float", f"{path}_v", encoder.width, "charge of a receptive field's neuron")
        self.once.append(f"memset({v}, 0, {encoder.width} * sizeof {v}[0]);")
        self.step.append(
            self.format_loop(
                encoder.width,
                f"const float charge = {v}[j] + {activity}[j];",
                "const float spike = charge - 1.0f >= 0.0f ? 1.0f : 0.0f;",
                f"{v}[j] = charge - spike;",
                f"{array}[{at}j] = {cast}spike;",
                index="j",
            )
        )

    def _write_latency(self, path: str, encoder: Latency, x: Signal, array: str, at: str, cast: str) -> None:
        span = format_literal(encoder.span)
        larger, smaller = self.memory.use_function("larger"), self.memory.use_function("smaller")
        centre = self.memory.format_element(f"{path}_centre", encoder.centre, "f")
        clamped = f"{smaller}({larger}({x.array}[c], -{span}), {span})"
        fields = len(encoder.centre)
        activity = self._write_fields(
            path, x, fields, f"({clamped} - {centre}) * {format_literal(encoder.scale)}"
        )
        nearest, silent = self.memory.use_function("nearest"), format_literal(encoder.cutoff)
        time = f"{nearest}({format_literal(float(self.steps - 1))} * (1.0f - {activity}[j]))"
        self.comment(f"{path}: from here on the inner step of the spike; -1 without one", self.once)
        self.once.append(
            self.format_loop(
                encoder.width, f"{activity}[j] = {activity}[j] >= {silent} ? {time} : -1.0f;", index="j"
            )
        )
        self.step.append(
            self.format_loop(encoder.width, f"{array}[{at}j] = {cast}({activity}[j] == (float)k);", index="j")
        )

    # layers

    def write_connection(self, path: str, connection: Any, signal: Signal) -> str:
        """Write the current of ``connection`` and return its C array; a constant signal gives a constant current."""
        width = connection.width
        name = f"{path}_current" if signal.constant else "current"
        current = self.memory.add_field("float", name, width, "current of a layer's neurons")
        block = self.once if signal.constant else self.step
        if signal.constant:
            self.comment(f"{path}: its current is the same in all inner steps", block)
        if type(connection) is LinearConnection:
            block += self.format_product(
                f"{path}_weight", connection.synapses(), connection.bias, signal, current
            )
        elif type(connection) is Convolutional:
            block.append(self.format_convolution(path, connection, signal, current))
        else:
            raise ExportError("agent.network.connection: no form in C; allowed: convolutional, linear")
        return current

    def format_convolution(self, path: str, link: Convolutional, signal: Signal, current: str) -> str:
        """Return C of a convolution and its pooling, summed in the order of the `cpu` backend's kernel."""
        outputs, inputs, side, _ = link.weight.shape
        rows, columns = link.inputs[1:]
        _, high, wide = link.shape
        pool, stride, padding = link.pool, link.stride, link.padding
        weight = self.memory.add_constant(f"{path}_weight", link.weight)
        bias = self.memory.format_element(f"{path}_bias", link.bias, "o")
        self.memory.use_function("MULTIPLY_ADD")
        read = f"{signal.array}[(c * {rows} + y) * {columns} + z]"
        read = f"(float){read}" if signal.binary else read
        block = pool if link.pooling == "max" and pool <= LARGEST_POOL else 1
        over = [("c", inputs), ("i", side), ("j", side)]
        if adds_by_columns((inputs, rows, columns, outputs, side, stride, padding, block)):
            over.reverse()
        body = (
            f"const int y = r * {stride} + i - {padding}, z = q * {stride} + j - {padding};\n"
            f"if (y >= 0 && y < {rows} && z >= 0 && z < {columns})\n"
            f"  sum = MULTIPLY_ADD({read}, {weight}[((o * {inputs} + c) * {side} + i) * {side} + j], sum);"
        )
        for name, size in reversed(over):
            body = self.format_loop(size, body, index=name)
        lines, target = [f"float sum = {bias};", body], f"{current}[(o * {high} + R) * {wide} + Q]"
        if pool == 1:
            inner = ["const int r = R, q = Q;", *lines, f"{target} = sum;"]
        else:
            larger = link.pooling == "max"
            start = "-3.4028235e38f" if larger else "0.0f"
            step = f"block = {self.memory.use_function('larger')}(sum, block);" if larger else "block += sum;"
            spot = f"const int r = R * {pool} + p / {pool}, q = Q * {pool} + p % {pool};"
            inner = [f"float block = {start};", self.format_loop(pool * pool, spot, *lines, step, index="p")]
            inner.append(f"{target} = block{'' if larger else f' / {format_literal(float(pool * pool))}'};")
        text = self.format_loop(wide, *inner, index="Q")
        return self.format_loop(outputs, self.format_loop(high, text, index="R"), index="o")

    def write_feedback(
        self, path: str, width: int, loop: RecurrentFeedback, weight: Tensor, current: str
    ) -> str:
        """Write the current that a layer's last spikes send back, and return the C array of both currents' sum."""
        kind = "uint8_t" if loop.binary else "float"
        past = self.memory.add_field(
            kind,
            f"{path}_past",
            width * loop.delays,
            "its output in the last inner steps, the latest first",
            True,
        )
        arrived = self.memory.add_field(
            "float", "feedback", width, "current that a layer sends back to itself"
        )
        drive = self.memory.add_field("float", "drive", width, "sum of the currents of a recurrent layer")
        signal = Signal(past, width * loop.delays, loop.binary)
        self.step += self.format_product(f"{path}_recurrent_weight", weight, None, signal, arrived)
        if loop.decay is not None:
            synapse = self.memory.add_field(
                "float", f"{path}_synapse", width, "current of its synapses", True
            )
            decay = format_literal(loop.decay)
            self.step.append(
                self.format_loop(width, f"{synapse}[n] = {decay} * {synapse}[n] + {arrived}[n];")
            )
            arrived = synapse
        self.step.append(self.format_loop(width, f"{drive}[n] = {current}[n] + {arrived}[n];"))
        return drive

    def write_memory(self, path: str, width: int, loop: RecurrentFeedback, signal: Signal) -> None:
        """Write the output of a recurrent layer into its memory."""
        past = f"s->{path}_past"
        if loop.delays > 1:
            self.step.append(
                f"memmove({past} + {width}, {past}, {width * (loop.delays - 1)} * sizeof {past}[0]);"
            )
        self.step.append(f"memcpy({past}, {signal.array}, {width} * sizeof {past}[0]);")

    def write_neurons(
        self, path: str, neuron: Neuron, params: tuple[Tensor | float, ...], width: int, current: str
    ) -> Signal:
        """Write an inner step of a layer's neurons and return their output."""
        fields = [
            self.memory.add_field("float", f"{path}_neuron_{name}", width, f"state {name} of a neuron", True)
            for name in neuron.states
        ]
        lines, output = format_step(
            neuron, params, lambda name, values: self.memory.format_element(f"{path}_neuron_{name}", values.expand(width)),
            self.memory.use_function, [f"{field}[n]" for field in fields], f"{current}[n]",
        )  # fmt: skip
        if neuron.graded:
            array = self.memory.add_field("float", "sent", width, "output of a layer")
            lines.append(f"{array}[n] = {output};")
        else:
            array = self.memory.add_field("uint8_t", "fired", width, "spikes of a layer")
            lines.append(f"{array}[n] = {f'({output})' if ' ' in output else output} != 0.0f;")
        self.step.append(self.format_loop(width, *lines))
        return Signal(array, width, not neuron.graded)

    def write_reservoir(self, network: Reservoir, signal: Signal) -> Signal:
        """Write a reservoir and its readout; return its features."""
        size = network.size
        self.comment(f"reservoir: {size} {type(network.neuron).__name__} neurons")
        current = self.memory.add_field("float", "current", size, "current of the neurons")
        block = self.once if signal.constant else self.step
        block += self.format_product("input_weight", network.input_weight, network.bias, signal, current)
        drive = self.write_feedback("reservoir", size, network.feedback, network.weight, current)
        fired = self.write_neurons("reservoir", network.neuron, network.parameters_of_neuron(), size, drive)
        self.write_memory("reservoir", size, network.feedback, fired)
        count = len(network.trace_decays)
        trace = self.memory.add_field("float", "traces", size * count, "filtered spikes of the neurons", True)
        for i, decay in enumerate(network.trace_decays):
            lines, _ = format_step(
                network.filter, (decay,), lambda name, values: name, self.memory.use_function,
                [f"{trace}[{f'{i * size} + ' if i else ''}n]"], f"{fired.array}[n]",
            )  # fmt: skip
            self.step.append(self.format_loop(size, *lines))
        standardised = self.memory.add_field("float", "features", size * count, "standardised traces")
        mean = self.memory.format_element("features_mean", network.mean)
        deviation = self.memory.format_element("features_deviation", network.deviation)
        self.comment("readout", self.last)
        self.last.append(
            self.format_loop(size * count, f"{standardised}[n] = ({trace}[n] - {mean}) / {deviation};")
        )
        return self.write_mlp("readout", network.decoder, Signal(standardised, size * count, False))

    # decoders

    def write_decoder(self, decoder: Any, signal: Signal) -> Signal:
        """Write ``decoder`` of the last layer's output and return the features. Raises ExportError if it has no form in C."""
        if type(decoder) not in DECODERS:
            raise ExportError(
                f"agent.network.decoder: no form in C; allowed: {', '.join(registry.list_names('decoders'))}"
            )
        outputs = decoder.readout.out_features
        features = self.memory.add_field("float", "features", outputs, "output of the network")
        self.comment(f"decoder: {type(decoder).__name__}")
        self.comment(f"decoder: {type(decoder).__name__}", self.last)
        DECODERS[type(decoder)](self, decoder, signal, features, outputs)
        return Signal(features, outputs, False)

    def _write_membrane(self, decoder: Membrane, signal: Signal, features: str, outputs: int) -> None:
        drive = self.memory.add_field("float", "drive", outputs, "input of the readout")
        v = self.memory.add_field("float", "decoder_v", outputs, "potential of the readout", True)
        self.step += self.format_product(
            "decoder_readout_weight", decoder.synapses().t(), None, signal, drive
        )
        lines, output = format_step(
            decoder.potential, decoder.get_potential_parameters(), lambda name, values: name,
            self.memory.use_function, [f"{v}[n]"], f"{drive}[n]",
        )  # fmt: skip
        result = v
        if decoder.which != "last":
            result = self.memory.add_field(
                "float", "decoder_read", outputs, f"{decoder.which} of the potential"
            )
            larger = f"k == 0 || {output} > {result}[n] ? {output} : {result}[n]"
            lines.append(f"{result}[n] = {larger if decoder.which == 'max' else f'{result}[n] + {output}'};")
            if decoder.which == "mean":
                self.once.append(f"memset({result}, 0, {outputs} * sizeof {result}[0]);")
        self.step.append(self.format_loop(outputs, *lines))
        read = (
            f"{result}[n] / {format_literal(float(self.steps))}"
            if decoder.which == "mean"
            else f"{result}[n]"
        )
        bias = self.memory.format_element("decoder_readout_bias", decoder.readout.bias)
        self.last.append(self.format_loop(outputs, f"{features}[n] = {read} + {bias};"))

    def _write_linear(self, decoder: Decoder, signal: Signal, features: str, _outputs: int) -> None:
        bias = decoder.readout.bias
        self.last += self.format_product(
            "decoder_readout_weight", decoder.synapses().t(), bias, signal, features
        )

    def _sum_steps(self, signal: Signal) -> str:
        """Write the sum of ``signal`` over the inner steps and return its C array."""
        total = self.memory.add_field(
            "float", "decoder_sum", signal.width, "sum of a neuron's output over the inner steps"
        )
        self.once.append(f"memset({total}, 0, {signal.width} * sizeof {total}[0]);")
        self.step.append(self.format_loop(signal.width, f"{total}[n] += {signal.array}[n];"))
        return total

    def _write_rate_readout(self, decoder: Any, signal: Signal, features: str, outputs: int) -> None:
        if self.steps == 1 and type(decoder) is RateDecoder:
            self._write_linear(decoder, signal, features, outputs)
            return
        total = self._sum_steps(signal)
        self.last.append(
            self.format_loop(signal.width, f"{total}[n] = {total}[n] / {format_literal(float(self.steps))};")
        )
        self._write_linear(decoder, Signal(total, signal.width, False), features, outputs)

    def _write_first_spike(self, decoder: FirstSpike, signal: Signal, features: str, outputs: int) -> None:
        silent = self.memory.add_field(
            "float", "decoder_silent", signal.width, "1 until a neuron's first spike, then 0"
        )
        total = self.memory.add_field(
            "float", "decoder_sum", signal.width, "inner steps before a neuron's first spike"
        )
        reset = [f"{silent}[n] = 1.0f;", f"{total}[n] = 0.0f;"]
        self.once.append(self.format_loop(signal.width, *reset))
        count = [f"{silent}[n] *= 1.0f - {signal.array}[n];", f"{total}[n] += {silent}[n];"]
        self.step.append(self.format_loop(signal.width, *count))
        early = f"{total}[n] = 1.0f - {total}[n] / {format_literal(float(self.steps))};"
        self.last.append(self.format_loop(signal.width, early))
        self._write_linear(decoder, Signal(total, signal.width, False), features, outputs)

    def _write_sums(self, decoder: SigmaDeltaDecoder, signal: Signal, features: str, outputs: int) -> None:
        total = Signal(self._sum_steps(signal), signal.width, False)
        held = self.memory.add_field("float", "decoder_total", outputs, "sum of the readout", True)
        self.last += self.format_product(
            "decoder_readout_weight", decoder.synapses().t(), None, total, features
        )
        bias = self.memory.format_element("decoder_readout_bias", decoder.readout.bias)
        add = [f"{held}[n] = {held}[n] + {features}[n];", f"{features}[n] = {held}[n] + {bias};"]
        self.last.append(self.format_loop(outputs, *add))

    # MLP

    def write_mlp(self, path: str, modules: Any, signal: Signal) -> Signal:
        """Write linear maps and activations after the inner steps, and return the output."""
        from spiky_rl.deploy._c_ann import format_activation

        for i, module in enumerate(modules):
            if isinstance(module, torch.nn.Linear):
                name = f"{path}_{i}"
                array = self.memory.add_field("float", name, module.out_features, f"output of {name}")
                self.last += self.format_product(
                    f"{name}_weight", module.weight.t(), module.bias, signal, array
                )
                signal = Signal(array, module.out_features, False)
            elif not isinstance(module, torch.nn.Unflatten | torch.nn.Identity):
                text = format_activation(module, f"{signal.array}[n]", self.memory.use_function)
                self.last.append(self.format_loop(signal.width, f"{signal.array}[n] = {text};"))
        return signal


# pylint: disable=protected-access
ENCODERS: dict[type, Any] = {
    Delta: NetworkWriter._write_delta,
    SigmaDeltaEncoder: NetworkWriter._write_sigma_delta,
    RateEncoder: NetworkWriter._write_rate,
    Population: NetworkWriter._write_population,
    Latency: NetworkWriter._write_latency,
    ConcatEncoder: None,
}
DECODERS: dict[type, Any] = {
    Membrane: NetworkWriter._write_membrane,
    LinearDecoder: NetworkWriter._write_linear,
    RateDecoder: NetworkWriter._write_rate_readout,
    PopulationVector: NetworkWriter._write_rate_readout,
    FirstSpike: NetworkWriter._write_first_spike,
    SigmaDeltaDecoder: NetworkWriter._write_sums,
}
