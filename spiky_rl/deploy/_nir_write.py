"""A spiking policy as a graph of NIR's nodes, and what NIR cannot say of one."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spiky_rl.codecs.decoders.membrane import Membrane
from spiky_rl.codecs.decoders.population_vector import PopulationVector
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.deploy._program import ExportError
from spiky_rl.deploy.base import ObservationNormalizer
from spiky_rl.learners.rsl_rl.export import make_metadata
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.feedforward import FeedForward, get_signal_shape
from spiky_rl.neurons.lif import Lif

if TYPE_CHECKING:
    from nir import LIF, NIRGraph, NIRNode

log = logging.getLogger(__name__)

DT = 1e-4
"""Seconds that a step takes in the file: snnTorch assumes it, Norse is told it."""
LAYOUT = 1
"""Version of the metadata's layout; a reader refuses another."""


def build_graph(model: SpikingModel) -> NIRGraph:
    """The graph of a ``model``. Raises ExportError where it cannot be, or a number is not finite."""
    import nir

    network = _feedforward(model)
    if not _is_mean(model):
        raise ExportError(
            f"--to nir: the actions of {type(model.distribution).__name__} are no output of the network"
        )
    with torch.no_grad():
        chain = _GraphBuilder(model)
        for i, layer in enumerate(network.layers):
            if layer.neuron.graded:
                raise ExportError(
                    f"--to nir: learning {model.settings['learning']['name']!r} divides a spike between two steps, for which NIR has no primitive"
                )
            chain.add_layer(f"layer_{i}", layer)
        weight = network.readout.weight
        if isinstance(network.decoder, PopulationVector):
            weight = weight * network.decoder.mask
        chain.flatten("readout")
        chain.add("readout", nir.Linear(_numbers("readout", weight)))
        chain.add("output", nir.Output({"output": np.array([weight.shape[0]])}))
        if any(layer.neuron.source_neuron.chosen["reset"] == "subtract" for layer in network.layers):
            log.warning(
                "--to nir: its neurons reset by subtraction, which NIR cannot say of a LIF; who reads the file has to be told"
                " (metadata reset: subtract, docs/deploying.md), or train with agent.network.neuron.reset=zero"
            )
        return nir.NIRGraph(chain.nodes, chain.edges, metadata=_metadata(model))


class _GraphBuilder:
    """Nodes one after the other, each with an edge from the last."""

    def __init__(self, model: SpikingModel) -> None:
        import nir

        self.nodes: dict[str, NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.last = ""
        network, maps = _feedforward(model), model.input_shape
        first = next(iter(network.layers)).connection
        normaliser, direct = model.obs_normalizer, _direct(model)
        self.shape = get_signal_shape(network.encoder, maps)
        if (
            isinstance(first, Convolutional)
            and len(self.shape) == 1
            and isinstance(normaliser, torch.nn.Identity)
        ):
            self.shape = first.inputs  # a vector that is read as maps comes in as them
        self.add("input", nir.Input({"input": np.array(self.shape)}))
        if direct and not isinstance(normaliser, torch.nn.Identity):
            mean, scale = get_normalization(normaliser)
            self.add("normaliser", nir.Affine(np.diag(1.0 / scale), -mean / scale))

    def add(self, name: str, node: NIRNode) -> None:
        """Put a ``node`` of that ``name`` behind the last."""
        if self.last:
            self.edges.append((self.last, name))
        self.nodes[name], self.last = node, name

    def flatten(self, name: str) -> None:
        """Make a vector of maps, for what is called ``name``."""
        import nir

        if len(self.shape) > 1:
            self.add(f"{name}.flatten", nir.Flatten({"input": np.array(self.shape)}, start_dim=0, end_dim=-1))
            self.shape = (int(np.prod(self.shape)),)

    def add_layer(self, name: str, layer: SpikingLayer) -> None:
        """Put the connection of a ``layer`` behind the last node, then its neurons, with what they send one another; ``name`` is its."""
        import nir

        neuron, gain = _neuron(name, layer)
        link = layer.connection
        if isinstance(link, Convolutional):
            self._convolve(name, link, gain)
        else:
            assert isinstance(link, LinearConnection)
            self.flatten(name)
            weight, bias = _numbers(name, link.synapses().t()), _numbers(name, link.bias)
            self.add(f"{name}.current", nir.Affine(weight / gain[:, None], bias / gain))
        self.add(f"{name}.neuron", neuron)
        self.shape = link.shape
        if layer.recurrent is None:
            return
        blocks = _numbers(name, layer.recurrent.synapses()).reshape(
            layer.recurrent.delays, layer.width, layer.width
        )
        for d, block in enumerate(blocks, 1):
            # an edge back takes one step by itself
            sender = f"{name}.neuron"
            if d > 1:
                delay = f"{name}.delay_{d}"
                self.nodes[delay] = nir.Delay(np.full(layer.width, (d - 1) * DT))
                self.edges.append((sender, delay))
                sender = delay
            back = f"{name}.feedback_{d}"
            self.nodes[back] = nir.Linear(block.T / gain[:, None])
            self.edges += [(sender, back), (back, f"{name}.neuron")]

    def _convolve(self, name: str, link: Convolutional, gain: np.ndarray) -> None:
        import nir

        if self.shape != link.inputs:
            raise ExportError(
                f"--to nir: {name} reads a vector as maps, for which NIR has no primitive behind another node"
            )
        if np.ptp(gain):
            raise ExportError(
                f"--to nir: {name} has a gain for each neuron, which a kernel that they share cannot hold"
            )
        weight, bias = _numbers(name, link.weight) / gain[0], _numbers(name, link.bias) / gain[0]
        side = (link.stride, link.stride), (link.padding, link.padding)
        _, height, width = link.inputs
        self.add(f"{name}.current", nir.Conv2d((height, width), weight, *side, (1, 1), 1, bias))
        if link.pool > 1:
            block = np.array([link.pool, link.pool])
            self.add(f"{name}.pool", nir.AvgPool2d(block, block, np.array([0, 0])))


def _neuron(name: str, layer: SpikingLayer) -> tuple[LIF, np.ndarray]:
    """A layer's neurons as a `nir.LIF`, and by what the weights are to be divided that lead to them, [N].

    Where all neurons have one decay, r is 1 and weights make up for it: Norse takes no other r. Where decays differ, r does,
    for snnTorch has one factor for a whole layer. Weights have double precision, so that dividing them loses nothing.
    """
    import nir

    neuron = layer.neuron.source_neuron
    assert isinstance(neuron, Lif)
    decay, threshold = (
        np.broadcast_to(
            value.double().numpy() if isinstance(value, Tensor) else value, (layer.width,)
        ).astype(float)
        for value in layer.parameters_of_neuron()
    )
    if not (np.isfinite(decay).all() and np.isfinite(threshold).all() and (decay < 1.0).all()):
        raise ExportError(f"--to nir: {name} has a parameter that is not finite")
    tau, unit = DT / (1.0 - decay), neuron.chosen["input_gain"] == "unit"
    own = unit and bool(np.ptp(decay))
    gain = 1.0 - decay if unit and not own else np.ones(layer.width)
    numbers = {
        "tau": tau,
        "r": 1.0 / (1.0 - decay) if own else np.ones(layer.width),
        "v_leak": np.zeros(layer.width),
        "v_threshold": threshold,
        "v_reset": np.zeros(layer.width),
    }
    said = {
        "reset": neuron.chosen["reset"],
        "input_gain": neuron.chosen["input_gain"],
        "step_ms": float(neuron.dt),
    }
    shape = layer.connection.shape
    return nir.LIF(**{key: value.reshape(shape) for key, value in numbers.items()}, metadata=said), gain


def _feedforward(model: SpikingModel) -> FeedForward:
    """The network of a model, which `Nir.check_network` has let pass."""
    assert isinstance(model.network, FeedForward)
    return model.network


def _metadata(model: SpikingModel) -> dict[str, Any]:
    """What no node says; docs/deploying.md has the layout."""
    network = _feedforward(model)
    settings, decoder = model.settings, network.decoder
    held = [{"of": "every neuron, encoder and decoder", "rest": 0.0}] if network.stateful else []
    shape = {"input": [1, *model.input_shape]}
    actions = {"output": [1, *model.output_shape]}
    said = make_metadata(
        model, shape, actions, held, "Potentials stay from one call to the next.", "put every potential at 0"
    )
    leak = (
        decoder.decay
        if isinstance(decoder, Membrane)
        else 0.0 if settings["decoder"]["name"] == "linear" else 1.0
    )
    last = isinstance(decoder, Membrane) or settings["decoder"]["name"] == "linear"
    metadata: dict[str, Any] = {
        "producer": said["producer"],
        "usage": said["usage"],
        "episode_begins": said["episode_begins"],
        "layout": LAYOUT,
        "dt": DT,
        "discretisation": "forward Euler: v <- v + dt / tau * (v_leak - v + r * i); a spike where v >= v_threshold, and the"
        " reset in the same step; what an edge back to a neuron carries arrives in the next step",
        "steps": network.steps,
        "stateful": int(network.stateful),
        "inputs": np.array(model.input_shape),
        "encoder": json.dumps(settings["encoder"]),
        "decoder": json.dumps(settings["decoder"]),
        "decoder_decay": leak,
        "decoder_gain": 1.0 - leak if last else 1.0 / network.steps,
        "decoder_read": decoder.which if isinstance(decoder, Membrane) else "last",
        "decoder_carried": int(network.stateful and isinstance(decoder, Membrane)),
        "decoder_bias": _numbers("decoder", network.readout.bias),
    }
    values = {f"encoder_{key}": _numbers(key, value) for key, value in network.encoder.state_dict().items()}
    if not _direct(model) and not isinstance(model.obs_normalizer, torch.nn.Identity):
        values["normaliser_mean"], values["normaliser_scale"] = get_normalization(model.obs_normalizer)
    return {**metadata, **values}


def get_normalization(normaliser: ObservationNormalizer) -> tuple[np.ndarray, np.ndarray]:
    """Mean and divisor, [O] each, that a ``normaliser`` applies to an observation."""
    scale = normaliser.std + normaliser.eps
    return _numbers("normaliser", normaliser.mean), _numbers("normaliser", scale)


def _direct(model: SpikingModel) -> bool:
    return model.settings["encoder"]["name"] == "direct"


def _is_mean(model: SpikingModel) -> bool:
    """Whether actions are the network's features as they are."""
    if model.distribution is None:
        return True
    probe = torch.arange(1.0, 1.0 + int(np.prod(model.output_shape))).view(1, *model.output_shape)
    return torch.equal(model.distribution.as_deterministic_output_module().cpu()(probe), probe)


def _numbers(name: str, values: Tensor) -> np.ndarray:
    """In double precision. Raises ExportError where one is not finite."""
    numbers = values.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise ExportError(f"--to nir: {name} holds a number that is not finite (nan or infinite)")
    return numbers
