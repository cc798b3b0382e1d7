"""A spiking network in C: loops over inner steps, layers and neurons."""

# pylint: disable=unidiomatic-typecheck  # a subclass may compute something else

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, override

from torch import Tensor

from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy._c_ann import write_mlp
from spiky_rl.deploy._c_codecs import write_decoder, write_encoder
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._c_term import Term
from spiky_rl.deploy._c_writer import CWriter, LayerWriter, Signal
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels.convolution import LARGEST_POOL, adds_by_columns
from spiky_rl.kernels.emit import format_literal
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.networks.nir import Nir
from spiky_rl.networks.reservoir import Reservoir
from spiky_rl.neurons.base import Neuron


def write_network(w: CWriter, network: SpikingNetwork, x: Signal) -> Signal:
    """Write ``network`` of the normalised observations ``x`` and return its features."""
    w.steps, w.stateful = network.steps, network.stateful
    if isinstance(network, Nir):
        x = _write_normaliser(w, network, x)
    signal = write_encoder(w, network.encoder, x)
    if isinstance(network, Reservoir):
        return _write_reservoir(w, network, signal)
    assert isinstance(network, FeedForward)
    for i, layer in enumerate(network.layers):
        title = f"layer {i}: {layer.width} {type(layer.neuron.source_neuron).__name__} neurons"
        recurrent = None if layer.recurrent is None else layer.recurrent.synapses()
        parts = layer.parameters_of_neuron(), layer.width, layer.connection, layer.loop, recurrent
        signal = FloatLayerWriter(w, f"layers_{i}", layer.neuron, *parts).write(title, signal)
    return write_decoder(w, network.decoder, signal)


def _write_normaliser(w: CWriter, network: Nir, x: Signal) -> Signal:
    """Write the map of a NIR file's first node from observations to the encoder's input, if the file has one."""
    if network.input_mean is None or network.input_scale is None:
        return x
    mean = w.format_element("input_mean", network.input_mean, "c")
    scale = w.format_element("input_scale", network.input_scale, "c")
    mapped = w.add_scratch("mapped", x.width, "observation after the file's first node")
    w.write_loop(w.once, "c", x.width, f"{mapped}[c] = ({x.array}[c] - {mean}) / {scale};")
    return Signal(mapped, x.width, constant=True)


class FloatLayerWriter(LayerWriter):
    """Writer of a layer in floats."""

    def __init__(
        self,
        w: CWriter,
        path: str,
        neuron: Neuron,
        params: Sequence[Tensor | float],
        width: int,
        connection: Any,
        loop: RecurrentFeedback | None,
        recurrent_weight: Tensor | None,
    ) -> None:
        """Begin a layer of ``neuron`` with ``params``; ``connection``: of a layer, or [C, N] weights and [N] bias."""
        states = dict.fromkeys(neuron.states, "float")
        delays, kind = loop.delays if loop else 0, "float" if neuron.graded else "uint8_t"
        super().__init__(w, path, width, delays, kind, states)
        self.neuron, self.params, self.connection = neuron, params, connection
        self.loop, self.recurrent_weight = loop, recurrent_weight

    def _make(self, array: str) -> Term:
        return Term(f"{array}[n]", self.body, self.w.use_function)

    @override
    def write_current(self, block: list[str], signal: Signal, name: str) -> Term:
        w, link, path = self.w, self.connection, f"{self.path}_connection"
        current = w.add_scratch(name, self.width, "current of a layer's neurons")
        if type(link) is Convolutional:
            block.append(_format_convolution(w, path, link, signal, current))
            return self._make(current)
        if type(link) is LinearConnection:
            link = link.synapses(), link.bias
        if not isinstance(link, tuple):
            raise ExportError("agent.network.connection: no form in C; allowed: convolutional, linear")
        weight, bias = link
        w.write_product(block, f"{path}_weight", weight, bias, signal, current)
        return self._make(current)

    @override
    def write_feedback(self, past: Signal) -> Term:
        assert self.loop is not None and self.recurrent_weight is not None
        w, width, decay = self.w, self.width, self.loop.decay
        current = w.add_scratch("feedback", width, "current that a layer sends back to itself")
        w.write_product(w.step, f"{self.path}_recurrent_weight", self.recurrent_weight, None, past, current)
        if decay is None:
            return self._make(current)
        synapse = w.add_state(f"{self.path}_synapse", width, "current of its synapses")
        self.body.append(f"{synapse}[n] = {format_literal(decay)} * {synapse}[n] + {current}[n];")
        return self._make(synapse)

    @override
    def write_step(self, current: Term, states: list[Term]) -> str:
        path, width, texts = f"{self.path}_neuron", self.width, [state.text for state in states]
        params = [value.expand(width) if isinstance(value, Tensor) else value for value in self.params]
        lines, output = format_step(self.w, path, self.neuron, params, texts, current.text)
        self.body += lines
        if self.neuron.graded:
            return output
        return f"{f'({output})' if ' ' in output else output} != 0.0f"


def _format_convolution(w: CWriter, path: str, link: Convolutional, signal: Signal, current: str) -> str:
    """Return C of a convolution and its pooling, summed in the order of the `cpu` backend's kernel."""
    outputs, inputs, side, _ = link.weight.shape
    rows, columns = link.inputs[1:]
    _, high, wide = link.shape
    pool, stride, padding = link.pool, link.stride, link.padding
    weight = w.add_constant(f"{path}_weight", link.weight)
    bias = w.format_element(f"{path}_bias", link.bias, "o")
    w.use_function("MULTIPLY_ADD")
    read = f"{signal.array}[(c * {rows} + y) * {columns} + z]"
    read = f"(float){read}" if signal.binary else read
    block = pool if link.pooling == "max" and pool <= LARGEST_POOL else 1
    over = [("c", inputs), ("i", side), ("j", side)]
    if adds_by_columns((inputs, rows, columns, outputs, side, stride, padding, block)):
        over.reverse()
    body = f"""\
const int y = r * {stride} + i - {padding}, z = q * {stride} + j - {padding};
if (y >= 0 && y < {rows} && z >= 0 && z < {columns})
  sum = MULTIPLY_ADD({read}, {weight}[((o * {inputs} + c) * {side} + i) * {side} + j], sum);"""
    for name, size in reversed(over):
        body = w.format_loop(name, size, body)
    lines, target = [f"float sum = {bias};", body], f"{current}[(o * {high} + R) * {wide} + Q]"
    if pool == 1:
        inner = ["const int r = R, q = Q;", *lines, f"{target} = sum;"]
    else:
        spot = f"const int r = R * {pool} + p / {pool}, q = Q * {pool} + p % {pool};"
        if link.pooling == "max":
            start, mean = "-3.4028235e38f", ""
            step = f"block = {w.use_function('larger')}(sum, block);"
        else:
            start, mean = "0.0f", f" / {format_literal(float(pool * pool))}"
            step = "block += sum;"
        blocks = w.format_loop("p", pool * pool, spot, *lines, step)
        inner = [f"float block = {start};", blocks, f"{target} = block{mean};"]
    return w.format_loop("o", outputs, w.format_loop("R", high, w.format_loop("Q", wide, *inner)))


def _write_reservoir(w: CWriter, network: Reservoir, signal: Signal) -> Signal:
    """Write a reservoir and its readout; return its features."""
    size, feedback = network.size, network.feedback
    params, connection = network.parameters_of_neuron(), (network.input_weight, network.bias)
    parts = network.neuron, params, size, connection, feedback, network.weight
    layer = FloatLayerWriter(w, "reservoir", *parts)
    fired = layer.write(f"reservoir: {size} {type(network.neuron).__name__} neurons", signal)
    count = size * len(network.trace_decays)
    trace = w.add_state("traces", count, "filtered spikes of the neurons")
    for i, decay in enumerate(network.trace_decays):
        state = f"{trace}[{f'{i * size} + ' if i else ''}n]"
        lines, _ = format_step(w, "filter", network.filter, (decay,), [state], f"{fired.array}[n]")
        w.write_loop(w.step, "n", size, *lines)
    standardised = w.add_scratch("features", count, "standardised traces")
    mean = w.format_element("features_mean", network.mean)
    deviation = w.format_element("features_deviation", network.deviation)
    w.write_comment("readout", w.last)
    w.write_loop(w.last, "n", count, f"{standardised}[n] = ({trace}[n] - {mean}) / {deviation};")
    return write_mlp(w, "readout", network.decoder, Signal(standardised, count))
