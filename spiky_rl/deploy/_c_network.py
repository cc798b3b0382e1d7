"""A spiking network in C: loops over inner steps, layers and neurons."""

# pylint: disable=unidiomatic-typecheck  # a subclass may compute something else

from __future__ import annotations

from typing import Any

from torch import Tensor

from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy._c_ann import write_mlp
from spiky_rl.deploy._c_codecs import write_decoder, write_encoder
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._c_writer import CWriter, Signal
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
        path = f"layers_{i}"
        w.comment(f"layer {i}: {layer.width} {type(layer.neuron.source_neuron).__name__} neurons")
        current = _write_connection(w, f"{path}_connection", layer.connection, signal)
        if layer.recurrent is not None and layer.loop is not None:
            weight = layer.recurrent.synapses()
            current = _write_feedback(w, path, layer.width, layer.loop, weight, current)
        signal = _write_neurons(w, path, layer.neuron, layer.parameters_of_neuron(), layer.width, current)
        if layer.loop is not None:
            w.remember(f"s->{path}_past", layer.loop.delays, signal)
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


def _write_connection(w: CWriter, path: str, connection: Any, signal: Signal) -> str:
    """Write the current of ``connection`` and return its C array; a constant signal gives a constant current."""
    name, block = "current", w.step
    if signal.constant:
        name, block = f"{path}_current", w.once
        w.comment(f"{path}: its current is the same in all inner steps", block)
    current = w.add_scratch(name, connection.width, "current of a layer's neurons")
    if type(connection) is LinearConnection:
        w.write_product(block, f"{path}_weight", connection.synapses(), connection.bias, signal, current)
    elif type(connection) is Convolutional:
        block.append(_format_convolution(w, path, connection, signal, current))
    else:
        raise ExportError("agent.network.connection: no form in C; allowed: convolutional, linear")
    return current


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


def _write_feedback(
    w: CWriter, path: str, width: int, loop: RecurrentFeedback, weight: Tensor, current: str
) -> str:
    """Write the current that a layer's last spikes send back, and return the C array of both currents' sum."""
    kind = "uint8_t" if loop.binary else "float"
    size = width * loop.delays
    past = w.add_state(f"{path}_past", size, "its output in the last inner steps, the latest first", kind)
    arrived = w.add_scratch("feedback", width, "current that a layer sends back to itself")
    drive = w.add_scratch("drive", width, "sum of the currents of a recurrent layer")
    w.write_product(w.step, f"{path}_recurrent_weight", weight, None, Signal(past, size, kind), arrived)
    if loop.decay is not None:
        synapse = w.add_state(f"{path}_synapse", width, "current of its synapses")
        decayed = f"{format_literal(loop.decay)} * {synapse}[n]"
        w.write_loop(w.step, "n", width, f"{synapse}[n] = {decayed} + {arrived}[n];")
        arrived = synapse
    w.write_loop(w.step, "n", width, f"{drive}[n] = {current}[n] + {arrived}[n];")
    return drive


def _write_neurons(
    w: CWriter, path: str, neuron: Neuron, params: tuple[Tensor | float, ...], width: int, current: str
) -> Signal:
    """Write an inner step of a layer's neurons and return their output."""
    fields = [
        w.add_state(f"{path}_neuron_{name}", width, f"state {name} of a neuron") for name in neuron.states
    ]
    values = [value.expand(width) if isinstance(value, Tensor) else value for value in params]
    states = [f"{field}[n]" for field in fields]
    lines, output = format_step(w, f"{path}_neuron", neuron, values, states, f"{current}[n]")
    if neuron.graded:
        signal = Signal(w.add_scratch("sent", width, "output of a layer"), width)
        lines.append(f"{signal.array}[n] = {output};")
    else:
        signal = Signal(w.add_scratch("fired", width, "spikes of a layer", "uint8_t"), width, "uint8_t")
        lines.append(f"{signal.array}[n] = {f'({output})' if ' ' in output else output} != 0.0f;")
    w.write_loop(w.step, "n", width, *lines)
    return signal


def _write_reservoir(w: CWriter, network: Reservoir, signal: Signal) -> Signal:
    """Write a reservoir and its readout; return its features."""
    size, feedback = network.size, network.feedback
    w.comment(f"reservoir: {size} {type(network.neuron).__name__} neurons")
    current = w.add_scratch("current", size, "current of the neurons")
    block = w.once if signal.constant else w.step
    w.write_product(block, "input_weight", network.input_weight, network.bias, signal, current)
    drive = _write_feedback(w, "reservoir", size, feedback, network.weight, current)
    fired = _write_neurons(w, "reservoir", network.neuron, network.parameters_of_neuron(), size, drive)
    w.remember("s->reservoir_past", feedback.delays, fired)
    count = size * len(network.trace_decays)
    trace = w.add_state("traces", count, "filtered spikes of the neurons")
    for i, decay in enumerate(network.trace_decays):
        state = f"{trace}[{f'{i * size} + ' if i else ''}n]"
        lines, _ = format_step(w, "filter", network.filter, (decay,), [state], f"{fired.array}[n]")
        w.write_loop(w.step, "n", size, *lines)
    standardised = w.add_scratch("features", count, "standardised traces")
    mean = w.format_element("features_mean", network.mean)
    deviation = w.format_element("features_deviation", network.deviation)
    w.comment("readout", w.last)
    w.write_loop(w.last, "n", count, f"{standardised}[n] = ({trace}[n] - {mean}) / {deviation};")
    return write_mlp(w, "readout", network.decoder, Signal(standardised, count))
