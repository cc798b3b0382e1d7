"""NIR: a network from a graph of the Neuromorphic Intermediate Representation, of another library or our own export.

    network: {name: nir, file: x.nir}

A graph is a chain of linear maps or convolutions, each with its neurons: `LIF`, `IF`, `CubaLIF` or, at its end, the leaky
integrator `LI`. Layers may be recurrent, with delays. Neurons keep the time constants, thresholds and resets of the file; weights
and biases are trained further. A weight of exactly 0 is no synapse and stays 0, in a matrix that has other weights. A last linear
map is the readout. A file without one gets a readout of the last layer's outputs: the identity if it has as many neurons as the
agent needs features, else a random one.

Our own files bring encoder, decoder, normalisation, ``steps`` and ``stateful``, unless the agent names others; other files hold
none of these. The file is read whenever the network is built, so keep it beside the run; the checkpoint has the learned weights and
refuses a changed graph.

Source: Pedersen et al. (2024), Neuromorphic intermediate representation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self, override

import numpy as np
import torch
from pydantic import field_validator, model_validator
from torch import Tensor

from spiky_rl.codecs.decoders.membrane import Potential
from spiky_rl.config import registry
from spiky_rl.config.options import RegistryError, Settings, error_path, option
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.connections.base import Connection, IntraLayerConnection, Shape, count_values, read_weight
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.kernels import dispatch, neuron_checks, precision
from spiky_rl.networks._layer import NeuronParameters, SpikingLayer
from spiky_rl.networks._nir_graph import DT, NirContent, NirLayer, NirReadOptions, read_content
from spiky_rl.networks.base import ForwardRecord, State
from spiky_rl.networks.feedforward import FeedForward, check_learning
from spiky_rl.neurons.base import Neuron

READOUTS = ("linear", "membrane", "rate")
"""Decoders that can take over the readout of a file."""
PER_INNER_STEP = ("noise", "step")
"""Tensors of encoders with a value per inner step, which are not learned."""
NEURON_NAMES = {"CubaLIF": "cuba_lif", "IF": "lif", "LIF": "lif"}
"""Neuron of the registry by the type of a node."""


class Nir(FeedForward):
    """Observations [T, B, O] -> features [T, B, F], by the graph of a NIR file."""

    class Options(Settings):
        file: str = option(..., "NIR file (.nir), by its path")
        steps: int = option(
            4, "K: inner steps per control step; absent: as in the file, if it says so", low=1, high=10_000
        )
        stateful: bool = option(
            False,
            "carry the neurons' states from one control step to the next; absent: as in the file, if it says so",
        )
        dt: float | None = option(
            None,
            f"duration of an inner step in the file's time; null: of the file, or {DT:g} as in snnTorch and SpikingJelly",
            above=0.0,
            unit="s",
        )
        spike: Literal["at", "above"] | None = option(
            None,
            "whether neurons spike at the threshold, as in SpikingJelly, or above it, as in NIR; null: above, in our own files at",
        )
        reset: Literal["zero", "subtract"] | None = option(None, "reset of all neurons; null: as in the file")
        backend: str = dispatch.backend_option()
        gradient_precision: Literal["auto", "float32", "bfloat16"] = option(
            "auto", "precision, on the CPU, of the gradients, as in feedforward"
        )
        recompute: bool = option(
            False, "save memory: keep only each layer's input and run the layer again in the backward pass"
        )

        _check_precision = field_validator("gradient_precision")(precision.check_gradient_precision)

        @model_validator(mode="after")
        def _take_from_file(self) -> Self:
            """Complete absent ``steps`` and ``stateful`` from the file."""
            absent = {"steps", "stateful"} - self.model_fields_set
            if not absent:
                return self
            with error_path("file"):
                content = read_content(_get_read_options(self))
            of_file = {"steps": content.steps, "stateful": content.stateful}
            found = {key: of_file[key] for key in absent if of_file[key] is not None}
            return self.with_changes(**found) if found else self

    parts = {
        "encoder": ("encoders", None),
        "surrogate": ("surrogates", "arctangent"),
        "learning": ("rules", "bptt"),
        "sparsity": ("penalties", None),
        "decoder": ("decoders", None),
    }
    listed = ()

    @override
    @classmethod
    def validate(cls, path: str, options: Options, parts: Mapping[str, Any]) -> None:
        with error_path(f"{path}.file"):
            content = read_content(_get_read_options(options))
            decoder = _choose_codec(content, "decoder", parts["decoder"])
            neurons = [_make_neuron(layer) for layer in content.layers]
        if content.readout is not None and decoder.name not in READOUTS and not content.is_own_export:
            raise RegistryError(
                f"{path}.decoder: {decoder.name} given for a file with a readout; allowed: {', '.join(READOUTS)}"
            )
        rule, surrogate = check_learning(path, options.backend, parts, decoder.name)
        for neuron in neurons:
            with error_path(f"{path}.learning"):
                if rule.wrap_neuron(neuron) is not neuron:
                    raise RegistryError(
                        f"{parts['learning'].name} given; allowed: rules that keep a file's neurons, such as bptt"
                    )
            if not neuron.graded:
                neuron_checks.check_neuron(neuron, surrogate)

    def __init__(
        self,
        options: Options,
        encoder: ComponentSpec | None,
        surrogate: ComponentSpec,
        learning: ComponentSpec,
        sparsity: ComponentSpec | None,
        decoder: ComponentSpec | None,
        inputs: Shape | int,
        outputs: int,
    ) -> None:
        """Build the network from options and parts.

        ``inputs`` is O, or (channels, height, width) of maps that are flattened in x; ``outputs`` is F.

        Raises:
            RegistryError: The graph takes another number of observations, or has another number of outputs.
        """
        content = read_content(_get_read_options(options))
        _check_sizes(content, options.file, count_values(inputs), outputs)
        codecs = {
            "encoder": _choose_codec(content, "encoder", encoder),
            "decoder": _choose_codec(content, "decoder", decoder),
        }
        self.codec_settings = {key: spec.settings() for key, spec in codecs.items()}
        """Settings of encoder and decoder."""
        chosen = options.model_dump(
            include={"steps", "stateful", "backend", "gradient_precision", "recompute"}
        )
        unused: Any = None  # `_build_layers` takes neurons and connections from the file instead
        self._file_layers, self.digest = content.layers, content.digest
        super().__init__(
            FeedForward.Options.check("network", chosen),
            encoder=codecs["encoder"],
            connection=unused,
            recurrent=None,
            neuron=unused,
            surrogate=surrogate,
            learning=learning,
            sparsity=sparsity,
            decoder=codecs["decoder"],
            inputs=inputs if isinstance(inputs, int) or len(inputs) > 1 else content.inputs,
            outputs=outputs,
        )
        del self._file_layers
        for name, values in zip(
            ("input_mean", "input_scale"), content.normaliser or (None, None), strict=True
        ):
            self.register_buffer(name, None if values is None else _to_tensor(values))
        self.input_mean: Tensor | None
        self.input_scale: Tensor | None
        if encoder is None:
            self._set_encoder(content, options.file)
        self._set_readout(content)

    @override
    def _build_layers(self, *_: object) -> list[SpikingLayer]:
        layers: list[SpikingLayer] = []
        binary = self.encoder.binary
        channels = math.prod(self._file_layers[0].inputs)
        if self.encoder.width != channels:
            raise RegistryError(
                f"network.encoder: {self.encoder.width} channels given; allowed: {channels}, as the first node of the file takes"
            )
        for layer in self._file_layers:
            neuron = self.learning.wrap_neuron(_make_neuron(layer))
            feedback = None if layer.feedback is None else FileFeedback(layer.feedback)
            spiking_layer = self._make_layer(_make_connection(layer), neuron, feedback, binary)
            spiking_layer.parameters_of_neuron = FileParameters(neuron, layer.values)
            layers.append(spiking_layer)
            binary = not neuron.graded
        return layers

    def _set_encoder(self, content: NirContent, file: str) -> None:
        """Set the encoder's tensors to those of ``file``; with other ``steps``, those per inner step stay as they were built."""
        tensors = self.encoder.state_dict()
        for key, built in tensors.items():
            if self.steps != content.steps and key.rpartition(".")[2] in PER_INNER_STEP:
                continue
            values = content.encoder_state.get(key, np.empty(0))
            if values.size != built.numel():
                raise RegistryError(
                    f"network.file: {file}: encoder_{key} of {values.size} values given; allowed: {built.numel()}"
                )
            tensors[key] = _to_tensor(values).view_as(built)
        self.encoder.load_state_dict(tensors)

    def _set_readout(self, content: NirContent) -> None:
        """Set the readout to that of the file; without one, to the identity if there are as many neurons as features."""
        readout = self.decoder.readout
        if content.readout is None and readout.in_features != readout.out_features:
            return
        weight, bias = content.readout or (np.eye(readout.in_features), None)
        with torch.no_grad():
            readout.weight.copy_(_to_tensor(weight))
            readout.bias.copy_(torch.zeros_like(readout.bias) if bias is None else _to_tensor(bias))

    @override
    def forward(
        self, x: Tensor, state: State | None, keep: Tensor | None = None, record: ForwardRecord | None = None
    ) -> tuple[Tensor, State]:
        if self.input_mean is not None and self.input_scale is not None:
            x = (x - self.input_mean) / self.input_scale
        return super().forward(x, state, keep, record)

    @override
    def get_extra_state(self) -> Tensor:
        """Return the number of updates and the digest of the graph for ``state_dict``."""
        return torch.tensor([self.updates, self.digest], device=self.readout.weight.device)

    @override
    def set_extra_state(self, state: Tensor) -> None:
        """Set the number of updates from a checkpoint. Raises RegistryError if it was trained on another graph."""
        updates, *digest = state.flatten().tolist()  # other networks have no digest
        if digest != [self.digest]:
            raise RegistryError(
                "network.file: the graph differs from that of the checkpoint; restore the file"
            )
        self.updates = updates


class FileParameters(NeuronParameters):
    """Parameters of a neuron's step from a file: a number if all neurons have the same value, else a buffer [N]."""

    def __init__(self, neuron: Neuron, values: tuple[np.ndarray, ...]) -> None:
        super().__init__(neuron, len(values[0]))
        self._numbers: list[float | None] = []
        for i, value in enumerate(values):
            uniform = not np.ptp(value)
            self._numbers.append(float(value[0]) if uniform else None)
            self.register_buffer(f"value_{i}", None if uniform else _to_tensor(value))

    def forward(self) -> tuple[Tensor | float, ...]:
        """Return the values for the step, in the order of the neuron's parameters: numbers or [N] tensors."""
        return tuple(
            getattr(self, f"value_{i}") if number is None else number
            for i, number in enumerate(self._numbers)
        )


class FileFeedback(IntraLayerConnection):
    """Spikes [..., D N] of the last D inner steps, latest first -> current [..., N]; a synapse may have several delays."""

    def __init__(self, weight: np.ndarray) -> None:
        """``weight``: [D N, N], 0 without a synapse."""
        super().__init__()
        width = weight.shape[1]
        self.shape, self.delays = (width,), len(weight) // width
        self.weight = torch.nn.Parameter(_to_tensor(weight))
        self.register_buffer("mask", (self.weight.detach() != 0).to(self.weight))
        self.mask: Tensor

    @override
    def synapses(self) -> Tensor:
        return read_weight(self) * self.mask

    @override
    def operations(self, events: Tensor) -> Tensor:
        fan_out = self.mask.view(self.delays, self.width, self.width).sum((0, 2))
        return (events != 0).to(events.dtype) @ fan_out


def _get_read_options(options: Nir.Options) -> NirReadOptions:
    """Return the file and the choices of ``options``, which `read_content` takes."""
    return NirReadOptions(options.file, options.dt, options.spike, options.reset)


def _check_sizes(content: NirContent, file: str, observations: int, features: int) -> None:
    """Raise RegistryError if the graph of ``file`` takes or gives other numbers of values than the agent."""
    if observations != math.prod(content.inputs):
        raise RegistryError(
            f"network.file: {file} takes {math.prod(content.inputs)} observations; the environment gives {observations}"
        )
    if content.readout is not None and len(content.readout[0]) != features:
        raise RegistryError(
            f"network.file: {file} has {len(content.readout[0])} outputs; the agent needs {features}"
        )


def _choose_codec(content: NirContent, key: str, chosen: ComponentSpec | None) -> ComponentSpec:
    """Return the encoder or decoder (``key``): the ``chosen`` one of the agent, else that of the file, else the default of foreign files."""
    if chosen is not None:
        return chosen
    if key == "encoder":
        default = "direct"
    else:
        ends_in_potential = content.layers[-1].kind == "LI"
        default = "linear" if ends_in_potential else "rate"
    return registry.configure(f"{key}s", content.codecs.get(key, default), f"metadata.{key}")


def _make_neuron(layer: NirLayer) -> Neuron:
    """Return the neuron of a layer, whose options hold the means of the file's time constants and thresholds.

    The network itself computes with the file's values, see `FileParameters`.
    """
    dt = float(str(layer.options.get("dt", 1.0)))
    times = [_to_tau(float(value.mean()), dt) for value in layer.values]
    if layer.kind == "LI":
        return Potential.from_options(dt=dt, tau=times[0])
    named = {"tau_synapse": times[0], "tau": times[1]} if layer.kind == "CubaLIF" else {"tau": times[0]}
    threshold = max(float(layer.values[-1].mean()), 1e-3)
    settings = {"name": NEURON_NAMES[layer.kind], **layer.options, **named, "threshold": threshold}
    return registry.configure("neurons", settings, layer.name).build()


def _to_tau(decay: float, dt: float) -> float:
    """Return the time constant in ms of a ``decay``, within the range of the options."""
    if decay <= 0.0:
        return 1e-3
    return min(max(-dt / math.log(decay), 1e-3), 1e6) if decay < 1.0 else 1e6


def _make_connection(layer: NirLayer) -> Connection:
    weight = _to_tensor(layer.weight)
    has_bias, geometry = layer.bias is not None, layer.geometry
    # initial weights are drawn and replaced; later draws must not depend on them
    with torch.random.fork_rng(devices=[]):
        if geometry is None:
            outputs, inputs = weight.shape
            link: Any = LinearConnection(LinearConnection.Options(bias=has_bias), inputs, outputs)
            weight = weight.t()
            if 0 < int(torch.count_nonzero(weight)) < weight.numel():
                link.mask = (weight != 0).to(weight).contiguous()
        else:
            outputs, _, kernel, _ = weight.shape
            options = Convolutional.Options(
                kernel=kernel,
                stride=geometry.stride,
                padding=geometry.padding,
                pool=geometry.pool,
                pooling="average",
            )
            link = Convolutional(options, geometry.inputs, outputs)
            link.bias.requires_grad_(has_bias)
    with torch.no_grad():
        link.weight.copy_(weight)
        link.bias.copy_(torch.zeros_like(link.bias) if layer.bias is None else _to_tensor(layer.bias))
    return link


def _to_tensor(values: np.ndarray) -> Tensor:
    """Return the ``values``, rounded to float32, in torch's default type."""
    return torch.from_numpy(np.array(values, np.float32, order="C")).to(torch.get_default_dtype())
