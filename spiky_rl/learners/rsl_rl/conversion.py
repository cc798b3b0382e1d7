"""Conversion of an ANN's trained actor into a sigma-delta network of the same sizes.

Weights, biases and normalisation are the ANN's. The threshold of each neuron is a share of the standard deviation that its
activation has on the observations that the ANN visits: a change that is small beside what the unit usually does is not sent.
Without thresholds the network would compute what the ANN does; with them each layer's error is below the threshold times the
sum of the absolute weights.

Sources: O'Connor & Welling (2016), sigma-delta quantised networks; Diehl et al. (2015), thresholds from recorded activations.
"""

from __future__ import annotations

from typing import Any

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.codecs.decoders.sigma_delta import SigmaDeltaDecoder
from spiky_rl.codecs.encoders.sigma_delta import SigmaDeltaEncoder
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.registry import RegistryError
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.neurons.sigma_delta_unit import SigmaDeltaUnit

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ELU: "elu",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Identity: "identity",
}
"""Activation of `SigmaDeltaUnit` by that of an ANN."""


class Converter:
    """Copies an ANN into a student of the same sizes, with thresholds from the activations recorded so far."""

    def __init__(self, student: SpikingModel, teacher: MLPModel, share: float) -> None:
        """Initialise for a ``student`` and a ``teacher`` on the same observations.

        A threshold is the ``share`` of the standard deviation of an activation. Raises RegistryError if the student's network
        cannot hold the teacher.
        """
        self.student, self.teacher, self.share = student, teacher, share
        self.maps, self.activations = _list_modules(teacher)
        self.layers = self._check_student()
        self.sums: list[Tensor] = [
            torch.zeros(2, m.out_features, dtype=torch.float64) for m in self.maps[:-1]
        ]
        """Sum and sum of squares of each activation, [2, N] per layer."""
        self.count = 0
        """Number of recorded observations."""

    def _check_student(self) -> list[SpikingLayer]:
        """Return the student's layers. Raises RegistryError, with the key, if it is no sigma-delta copy of the teacher."""
        network = _require_sigma_delta(self.student.network)
        layers = list(network.layers)
        widths = [layer.width for layer in layers]
        teacher_widths = [m.out_features for m in self.maps[:-1]]
        if widths != teacher_widths:
            raise _make_error("network.layers", str(widths), f"{teacher_widths}, as the teacher has")
        for i, layer in enumerate(layers):
            _check_layer(layer, self.activations[i])
            connection = self.student.settings["connection"]
            _check_connection(connection[i] if isinstance(connection, list) else connection)
        groups, teacher_groups = list(self.student.obs_groups), list(self.teacher.obs_groups)
        if groups != teacher_groups:
            raise _make_error("obs_groups.actor", str(groups), f"{teacher_groups}, as the teacher has")
        features = self.maps[-1].out_features
        if network.readout.out_features != features:
            given = type(self.student.distribution).__name__
            raise _make_error(
                "actor.distribution_cfg.class_name",
                given,
                f"one with {features} features, as the teacher has",
            )
        ours, theirs = self.student.obs_normalizer, self.teacher.obs_normalizer
        if type(ours) is not type(theirs):
            normalizes = not isinstance(ours, nn.Identity)
            raise _make_error(
                "actor.obs_normalization",
                str(normalizes).lower(),
                f"{str(not normalizes).lower()}, as the teacher",
            )
        return layers

    @torch.no_grad()
    def record(self, observations: TensorDict) -> None:
        """Record the teacher's activations on ``observations``, [samples, ...]."""
        x, sums = self.teacher.get_latent(observations), iter(self.sums)
        self.count += len(x)
        for module in list(self.teacher.mlp)[: 2 * len(self.layers)]:
            x = module(x)
            if type(module) in ACTIVATIONS:
                moments = torch.stack([x.double().sum(0), x.double().square().sum(0)])
                next(sums).add_(moments.cpu())

    def _sum_over_processes(self) -> list[Tensor]:
        """Return the number of observations and `sums`, over all processes of a distributed training."""
        parts = [torch.tensor(float(self.count)), *(moments.clone() for moments in self.sums)]
        if torch.distributed.is_initialized():
            device = self.student.network.readout.weight.device
            for i, part in enumerate(parts):
                moved = part.to(device)
                torch.distributed.all_reduce(moved)
                parts[i] = moved.cpu()
        return parts

    @torch.no_grad()
    def convert(self) -> None:
        """Set the student to the teacher, with thresholds from all recorded activations, of all processes."""
        total, *sums = self._sum_over_processes()
        self.student.obs_normalizer.load_state_dict(self.teacher.obs_normalizer.state_dict())
        for layer, link, moments in zip(self.layers, self.maps, sums, strict=False):
            mean, square = moments / total
            deviation = (square - mean.square()).clamp(min=0.0).sqrt()
            values: Any = layer.parameters_of_neuron
            low, _ = layer.neuron.get_parameter_range("threshold")
            values.threshold.copy_((self.share * deviation).clamp(min=low).log())
            values.bias.copy_(link.bias)
            connection: Any = layer.connection
            connection.weight.copy_(link.weight.t())
        readout = self.student.network.readout
        readout.weight.copy_(self.maps[-1].weight)
        readout.bias.copy_(self.maps[-1].bias)

    @torch.no_grad()
    def compare(self, observations: TensorDict, dones: Tensor, actions: Tensor) -> float:
        """Run the student from zero states; return the mean square of its difference to the teacher's mean ``actions`` [T, B, A].

        Episodes end with ``dones`` [T, B, 1].
        """
        self.student.reset()
        error = 0.0
        for x, done, action in zip(observations, dones, actions, strict=True):
            error += float((self.student(x) - action).square().mean())
            self.student.reset(done.view(-1))
        return error / len(actions)


def _list_modules(teacher: MLPModel) -> tuple[list[nn.Linear], list[str]]:
    """Return the linear maps of an ANN and the activations between them. Raises RegistryError if it has other modules."""
    # a subclass may compute something else
    if type(teacher) is not MLPModel:  # pylint: disable=unidiomatic-typecheck
        raise _make_error(
            "algorithm.distillation_cfg.method", f"conversion of {type(teacher).__name__}", "an MLP"
        )
    maps = [module for module in teacher.mlp if isinstance(module, nn.Linear)]
    between = list(teacher.mlp)[1 : 2 * len(maps) - 2 : 2]
    for module in between:
        if type(module) not in ACTIVATIONS:
            raise _make_error(
                "algorithm.distillation_cfg.method",
                f"conversion of {type(module).__name__}",
                f"activations {', '.join(ACTIVATIONS.values())}",
            )
    return maps, [ACTIVATIONS[type(module)] for module in between]


def _require_sigma_delta(network: SpikingNetwork) -> FeedForward:
    """Return ``network`` if its inputs and outputs are changes, in one stateful inner step. Raises RegistryError with the key."""
    network = _require_kind("network.name", network, FeedForward)
    _require_kind("network.encoder", network.encoder, SigmaDeltaEncoder)
    _require_kind("network.decoder", network.decoder, SigmaDeltaDecoder)
    if not network.stateful or network.steps != 1:
        raise _make_error(
            "network.steps", f"{network.steps}, stateful {network.stateful}", "1, stateful true"
        )
    return network


def _check_connection(options: PlainMapping) -> None:
    """Raise RegistryError if a linear connection with ``options`` is not the weights of a linear layer alone."""
    for key, allowed in (("bias", False), ("density", 1.0), ("dale", False)):
        if options[key] != allowed:
            raise _make_error(f"network.connection.{key}", str(options[key]).lower(), str(allowed).lower())


def _check_layer(layer: SpikingLayer, activation: str) -> None:
    """Raise RegistryError if a ``layer`` cannot hold a linear layer and its ``activation``, whatever its connection's options."""
    _require_kind("network.connection", layer.connection, LinearConnection)
    if layer.recurrent is not None:
        raise _make_error("network.recurrent", _get_entry_name(type(layer.recurrent)), "null")
    neuron = _require_kind("network.neuron", layer.neuron.source_neuron, SigmaDeltaUnit)
    if neuron.options.activation != activation:
        raise _make_error("network.neuron.activation", neuron.options.activation, activation)
    if not {"threshold", "bias"} <= set(neuron.learn):
        raise _make_error("network.neuron.learn", str(list(neuron.learn)), "[threshold, bias]")


def _require_kind[T](key: str, part: object, kind: type[T]) -> T:
    """Return ``part`` if it is of the class ``kind``, which is a registry entry. Raises RegistryError with the ``key`` otherwise."""
    if not isinstance(part, kind):
        raise _make_error(key, _get_entry_name(type(part)), _get_entry_name(kind))
    return part


def _get_entry_name(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


def _make_error(key: str, given: str, allowed: str) -> RegistryError:
    return RegistryError(f"agent.{key}: {given} given; allowed for a conversion: {allowed}")
