"""Writer of a spiking policy as a NIR graph."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from spiky_rl.codecs.decoders.membrane import Membrane, Potential
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy.base import ExportError, get_normalization
from spiky_rl.learners.rsl_rl.export import make_metadata
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks._nir_graph import DT, FILE_VERSION
from spiky_rl.networks.feedforward import get_signal_shape
from spiky_rl.networks.nir import Nir
from spiky_rl.neurons.base import Neuron
from spiky_rl.neurons.cuba_lif import CubaLif
from spiky_rl.neurons.lif import Lif

log = logging.getLogger(__name__)

type Normalization = tuple[np.ndarray, np.ndarray]
"""Mean and divisor of the observations, [O] each."""


def build_graph(model: SpikingModel, is_old_version: bool = False) -> nir.NIRGraph:
    """Build the graph of ``model``. Raises ExportError if NIR cannot express it or a number is not finite.

    ``is_old_version``: for readers of NIR up to 1.0.4, whose LIF subtracts its threshold, and of which some know no Linear.
    """
    network: Any = model.network
    if not _outputs_mean(model):
        raise ExportError(
            f"--to nir: {type(model.distribution).__name__} given; allowed: distributions whose mean is the network's output"
        )
    with torch.no_grad():
        normalization = _get_normalization(model)
        builder = _GraphBuilder(model, normalization, is_old_version)
        for i, layer in enumerate(network.layers):
            if layer.neuron.graded and not isinstance(layer.neuron, Potential):
                raise ExportError(
                    f"--to nir: agent.network.learning: {model.settings['learning']['name']} given; NIR has no primitive for graded spikes"
                )
            builder.add_layer(f"layer_{i}", layer)
        weight = network.decoder.synapses()
        builder.flatten("readout")
        builder.add("readout", builder.make_map(_to_numpy("readout", weight)))
        builder.add("output", nir.Output({"output": np.array([weight.shape[0]])}))
        _warn_of_resets(network, is_old_version)
        return nir.NIRGraph(builder.nodes, builder.edges, metadata=_build_metadata(model, normalization))


def _warn_of_resets(network: Any, is_old_version: bool) -> None:
    """Warn of neurons whose reset is not that of NIR's LIF."""
    if is_old_version:
        other_reset, nir_reset, version, behaviour = "zero", "subtract", " 1.0.4", "subtracts its threshold"
    else:
        other_reset, nir_reset, version, behaviour = "subtract", "zero", "", "resets to a value"
    if all(layer.neuron.source_neuron.chosen.get("reset") != other_reset for layer in network.layers):
        return
    log.warning(
        "--to nir: the neurons have reset: %s, but the LIF of NIR%s %s: set the reader to %s (metadata reset: %s,"
        " docs/deploying.md), or train with agent.network.neuron.reset=%s",
        other_reset,
        version,
        behaviour,
        other_reset,
        other_reset,
        nir_reset,
    )


class _GraphBuilder:
    """Builder of a chain of nodes."""

    def __init__(
        self, model: SpikingModel, normalization: Normalization | None, is_old_version: bool
    ) -> None:
        self.is_old_version = is_old_version
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.last = ""
        network: Any = model.network
        first = network.layers[0].connection
        self.shape = get_signal_shape(network.encoder, model.input_shape)
        if isinstance(first, Convolutional) and len(self.shape) == 1 and normalization is None:
            self.shape = first.inputs  # the input has the shape of the maps, not of a vector
        self.add("input", nir.Input({"input": np.array(self.shape)}))
        if _is_direct(model) and normalization is not None:
            mean, scale = normalization
            self.add("normaliser", nir.Affine(np.diag(1.0 / scale), -mean / scale))

    def add(self, name: str, node: nir.NIRNode) -> None:
        """Append ``node`` with an edge from the last node."""
        if self.last:
            self.edges.append((self.last, name))
        self.nodes[name], self.last = node, name

    def make_map(self, weight: np.ndarray) -> nir.NIRNode:
        """Return a map without a bias."""
        return nir.Affine(weight, np.zeros(len(weight))) if self.is_old_version else nir.Linear(weight)

    def flatten(self, name: str) -> None:
        """Append a `nir.Flatten` if the signal consists of maps; ``name``: prefix of its name."""
        if len(self.shape) > 1:
            self.add(f"{name}.flatten", nir.Flatten({"input": np.array(self.shape)}, start_dim=0, end_dim=-1))
            self.shape = (int(np.prod(self.shape)),)

    def add_layer(self, name: str, layer: SpikingLayer) -> None:
        """Append the connection and the neurons of ``layer``, and add its recurrent connection; ``name``: prefix of the nodes."""
        link = layer.connection
        if layer.recurrent is not None and len(link.shape) > 1:
            raise ExportError(
                f"--to nir: {name} has a connection among the neurons of maps; NIR has no primitive for that"
            )
        neuron, gain = _build_neuron(name, layer)
        if isinstance(link, Convolutional):
            self._convolve(name, link, gain)
        else:
            assert isinstance(link, LinearConnection)
            self.flatten(name)
            weight, bias = _to_numpy(name, link.synapses().t()), _to_numpy(name, link.bias)
            self.add(f"{name}.current", nir.Affine(weight / gain[:, None], bias / gain))
        self.add(f"{name}.neuron", neuron)
        self.shape = link.shape
        if layer.recurrent is None:
            return
        blocks = _to_numpy(name, layer.recurrent.synapses()).reshape(
            layer.recurrent.delays, layer.width, layer.width
        )
        for d, block in enumerate(blocks, 1):
            # an edge back to a neuron takes one step without a delay
            sender = f"{name}.neuron"
            if d > 1:
                delay = f"{name}.delay_{d}"
                self.nodes[delay] = nir.Delay(np.full(layer.width, (d - 1) * DT))
                self.edges.append((sender, delay))
                sender = delay
            back = f"{name}.feedback_{d}"
            self.nodes[back] = self.make_map(block.T / gain[:, None])
            self.edges += [(sender, back), (back, f"{name}.neuron")]

    def _convolve(self, name: str, link: Convolutional, gain: np.ndarray) -> None:
        if self.shape != link.inputs:
            raise ExportError(
                f"--to nir: {name} reshapes a vector to maps; NIR has no primitive for that behind another node"
            )
        if np.ptp(gain):
            raise ExportError(
                f"--to nir: {name} has a gain per neuron; allowed: one gain for all neurons of a convolution"
            )
        weight, bias = _to_numpy(name, link.weight) / gain[0], _to_numpy(name, link.bias) / gain[0]
        side = (link.stride, link.stride), (link.padding, link.padding)
        _, height, width = link.inputs
        self.add(f"{name}.current", nir.Conv2d((height, width), weight, *side, (1, 1), 1, bias))
        if link.pool > 1:
            block = np.array([link.pool, link.pool])
            self.add(f"{name}.pool", nir.AvgPool2d(block, block, np.array([0, 0])))


def _build_neuron(name: str, layer: SpikingLayer) -> tuple[nir.NIRNode, np.ndarray]:
    """Return a layer's neurons as a node, and the divisor of their input weights, [N].

    If all neurons have the same decay, r is 1 and the weights are divided instead, because Norse accepts no other r. If decays
    differ, r holds the factor, because snnTorch has one divisor per layer. Weights have double precision, so dividing them
    loses nothing.
    """
    neuron, metadata, numbers = layer.neuron.source_neuron, dict[str, Any](), dict[str, np.ndarray]()
    metadata["step_ms"] = float(neuron.dt)
    decays = [
        _to_numpy(name, torch.as_tensor(value, dtype=torch.float64)) * np.ones(layer.width)
        for value in layer.parameters_of_neuron()
    ]
    if not isinstance(neuron, Potential):
        numbers["v_threshold"] = decays.pop()
        numbers["v_reset"] = np.zeros(layer.width)
        metadata["reset"] = neuron.chosen["reset"]
    leaks = [1.0 - decay for decay in decays]
    if np.min(leaks) < 0.0:
        raise ExportError(f"--to nir: {name} has a parameter that is out of range")
    kind, parameters, gain = _choose_primitive(name, neuron, leaks)
    if kind is nir.LIF:
        metadata["input_gain"] = neuron.chosen["input_gain"]
    shape = layer.connection.shape
    arrays = {key: value.reshape(shape) for key, value in (numbers | parameters).items()}
    return kind(**arrays, metadata=metadata), gain


def _choose_primitive(
    name: str, neuron: Neuron, leaks: list[np.ndarray]
) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Return the kind of node, its parameters beside threshold and reset, and the divisor of the input weights, [N]."""
    ones, zeros = np.ones_like(leaks[0]), np.zeros_like(leaks[0])
    has_unit_gain = neuron.chosen.get("input_gain") == "unit"
    if has_unit_gain and not leaks[0].any():
        return nir.IF, {"r": ones / DT}, ones
    if not np.all(leaks):
        raise ExportError(f"--to nir: {name} has neurons without a leak beside others; allowed: all or none")
    tau = [DT / leak for leak in leaks]
    if isinstance(neuron, Potential):
        return nir.LI, {"tau": tau[0], "r": ones, "v_leak": zeros}, ones
    if isinstance(neuron, CubaLif):
        factors = {"tau_syn": tau[0], "tau_mem": tau[1], "r": tau[1] / DT, "w_in": tau[0] / DT}
        return nir.CubaLIF, {**factors, "v_leak": zeros}, ones
    assert isinstance(neuron, Lif)
    factor = leaks[0] if has_unit_gain else ones
    r, gain = (1.0 / factor, ones) if np.ptp(factor) else (ones, factor)
    return nir.LIF, {"tau": tau[0], "r": r, "v_leak": zeros}, gain


def _build_metadata(model: SpikingModel, normalization: Normalization | None) -> dict[str, Any]:
    """Build the graph metadata (layout in docs/deploying.md)."""
    network: Any = model.network
    codecs = get_codecs(model)
    states = [{"of": "every neuron, encoder and decoder", "rest": 0.0}] if network.stateful else []
    between, begins = "Potentials stay from one call to the next.", "put every potential at 0"
    description = make_metadata(model, {}, {}, states, between, begins)
    metadata: dict[str, Any] = {
        **{key: description[key] for key in ("producer", "usage", "episode_begins")},
        "layout": FILE_VERSION,
        "dt": DT,
        "discretisation": "forward Euler: v <- v + dt / tau * (v_leak - v + r * i); a spike where v >= v_threshold, and the"
        " reset in the same step; an edge back to a neuron takes one step",
        "steps": network.steps,
        "stateful": int(network.stateful),
        "inputs": np.array(model.input_shape),
        "encoder": json.dumps(codecs["encoder"]),
        "decoder": json.dumps(codecs["decoder"]),
        **_describe_decoder(network, codecs["decoder"]["name"]),
    }
    for key, value in network.encoder.state_dict().items():
        metadata[f"encoder_{key}"] = _to_numpy(key, value)
    if not _is_direct(model) and normalization is not None:
        metadata["normaliser_mean"], metadata["normaliser_scale"] = normalization
    return metadata


def _describe_decoder(network: Any, name: str) -> dict[str, Any]:
    """Return the decoder ``name`` as a sum over the inner steps, value <- decay * value + gain * input, and which value is its output."""
    decoder, is_membrane = network.decoder, isinstance(network.decoder, Membrane)
    reads_last = is_membrane or name == "linear"
    decay = decoder.decay if is_membrane else 0.0 if reads_last else 1.0
    return {
        "decoder_decay": decay,
        "decoder_gain": 1.0 - decay if reads_last else 1.0 / network.steps,
        "decoder_read": decoder.which if is_membrane else "last",
        "decoder_carried": int(network.stateful and is_membrane),
        "decoder_bias": _to_numpy("decoder", network.readout.bias),
    }


def _get_normalization(model: SpikingModel) -> Normalization | None:
    """Return the normalisation of the observations in double precision; None if they are not normalised.

    Raises ExportError if a number is not finite, or if both the agent and its NIR file normalise.
    """
    normalization, network = get_normalization(model), model.network
    if isinstance(network, Nir) and network.input_mean is not None and network.input_scale is not None:
        if normalization is not None:
            raise ExportError(
                "agent.actor.obs_normalization: true given for a file that normalises; allowed for nir: false"
            )
        normalization = network.input_mean, network.input_scale
    if normalization is None:
        return None
    mean, divisor = normalization
    return _to_numpy("normaliser", mean), _to_numpy("normaliser", divisor)


def get_codecs(model: SpikingModel) -> Mapping[str, Any]:
    """Return the settings of ``encoder`` and ``decoder``; a network from a NIR file records its own."""
    network = model.network
    return network.codec_settings if isinstance(network, Nir) else model.settings


def _is_direct(model: SpikingModel) -> bool:
    return get_codecs(model)["encoder"]["name"] == "direct"


def _outputs_mean(model: SpikingModel) -> bool:
    """Return whether the actions are the network's output without change."""
    if model.distribution is None:
        return True
    probe = torch.arange(1.0, 1.0 + int(np.prod(model.output_shape))).view(1, *model.output_shape)
    return torch.equal(model.distribution.as_deterministic_output_module().cpu()(probe), probe)


def _to_numpy(name: str, values: Tensor) -> np.ndarray:
    """Return ``values`` in double precision. Raises ExportError, with ``name``, if one is not finite."""
    numbers = values.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise ExportError(f"--to nir: {name} has a number that is not finite (nan or infinite)")
    return numbers
