"""Decoders in C: statements in and after the inner steps that set the features."""

# pylint: disable=unidiomatic-typecheck  # a subclass may compute something else

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.decoders.first_spike import FirstSpike
from spiky_rl.codecs.decoders.linear import LinearDecoder
from spiky_rl.codecs.decoders.membrane import Membrane
from spiky_rl.codecs.decoders.population_vector import PopulationVector
from spiky_rl.codecs.decoders.rate import RateDecoder
from spiky_rl.codecs.decoders.sigma_delta import SigmaDeltaDecoder
from spiky_rl.config import registry
from spiky_rl.deploy._c_step import format_step
from spiky_rl.deploy._c_writer import CWriter, Signal
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels.emit import format_literal


def write_decoder(w: CWriter, decoder: Any, signal: Signal) -> Signal:
    """Write ``decoder`` of the last layer's output and return the features. Raises ExportError if it has no form in C."""
    if type(decoder) not in DECODERS:
        names = ", ".join(registry.list_names("decoders"))
        raise ExportError(f"agent.network.decoder: no form in C; allowed: {names}")
    outputs = decoder.readout.out_features
    features = w.add_scratch("features", outputs, "output of the network")
    w.comment(f"decoder: {type(decoder).__name__}", w.step, w.last)
    DECODERS[type(decoder)](w, decoder, signal, features)
    return Signal(features, outputs)


def _write_readout(
    w: CWriter, block: list[str], decoder: Decoder, signal: Signal, target: str, bias: Any = None
) -> None:
    """Append C that sets ``target`` to the readout of ``signal`` to ``block``."""
    w.write_product(block, "decoder_readout_weight", decoder.synapses().t(), bias, signal, target)


def _write_membrane(w: CWriter, decoder: Membrane, signal: Signal, features: str) -> None:
    outputs, which = decoder.readout.out_features, decoder.which
    drive = w.add_scratch("drive", outputs, "input of the readout")
    v = w.add_state("decoder_v", outputs, "potential of the readout")
    _write_readout(w, w.step, decoder, signal, drive)
    params = decoder.get_potential_parameters()
    lines, output = format_step(w, "decoder", decoder.potential, params, [f"{v}[n]"], f"{drive}[n]")
    result = f"{v}[n]"
    if which != "last":
        array = w.add_scratch("decoder_read", outputs, f"{which} of the potential")
        result = f"{array}[n]"
        larger = f"k == 0 || {output} > {result} ? {output} : {result}"
        lines.append(f"{result} = {larger if which == 'max' else f'{result} + {output}'};")
        if which == "mean":
            w.clear(w.once, array, outputs)
            result += f" / {format_literal(float(w.steps))}"
    w.write_loop(w.step, "n", outputs, *lines)
    bias = w.format_element("decoder_readout_bias", decoder.readout.bias)
    w.write_loop(w.last, "n", outputs, f"{features}[n] = {result} + {bias};")


def _write_linear(w: CWriter, decoder: Decoder, signal: Signal, features: str) -> None:
    _write_readout(w, w.last, decoder, signal, features, decoder.readout.bias)


def _sum_steps(w: CWriter, signal: Signal) -> Signal:
    """Write the sum of ``signal`` over the inner steps and return it."""
    total = w.add_scratch("decoder_sum", signal.width, "sum of a neuron's output over the inner steps")
    w.clear(w.once, total, signal.width)
    w.write_loop(w.step, "n", signal.width, f"{total}[n] += {signal.array}[n];")
    return Signal(total, signal.width)


def _write_rate(w: CWriter, decoder: Decoder, signal: Signal, features: str) -> None:
    if w.steps > 1 or type(decoder) is PopulationVector:
        signal = _sum_steps(w, signal)
        mean = f"{signal.array}[n] = {signal.array}[n] / {format_literal(float(w.steps))};"
        w.write_loop(w.last, "n", signal.width, mean)
    _write_linear(w, decoder, signal, features)


def _write_first_spike(w: CWriter, decoder: FirstSpike, signal: Signal, features: str) -> None:
    width = signal.width
    silent = w.add_scratch("decoder_silent", width, "1 until a neuron's first spike, then 0")
    total = w.add_scratch("decoder_sum", width, "inner steps before a neuron's first spike")
    w.write_loop(w.once, "n", width, f"{silent}[n] = 1.0f;", f"{total}[n] = 0.0f;")
    w.write_loop(
        w.step, "n", width, f"{silent}[n] *= 1.0f - {signal.array}[n];", f"{total}[n] += {silent}[n];"
    )
    w.write_loop(w.last, "n", width, f"{total}[n] = 1.0f - {total}[n] / {format_literal(float(w.steps))};")
    _write_linear(w, decoder, Signal(total, width), features)


def _write_sigma_delta(w: CWriter, decoder: SigmaDeltaDecoder, signal: Signal, features: str) -> None:
    total, outputs = _sum_steps(w, signal), decoder.readout.out_features
    stored = w.add_state("decoder_total", outputs, "sum of the readout")
    _write_readout(w, w.last, decoder, total, features)
    bias = w.format_element("decoder_readout_bias", decoder.readout.bias)
    w.write_loop(
        w.last, "n", outputs,
        f"{stored}[n] = {stored}[n] + {features}[n];", f"{features}[n] = {stored}[n] + {bias};",
    )  # fmt: skip


DECODERS: dict[type, Callable[[CWriter, Any, Signal, str], None]] = {
    Membrane: _write_membrane,
    LinearDecoder: _write_linear,
    RateDecoder: _write_rate,
    PopulationVector: _write_rate,
    FirstSpike: _write_first_spike,
    SigmaDeltaDecoder: _write_sigma_delta,
}
