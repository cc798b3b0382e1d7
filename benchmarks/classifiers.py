"""The contenders of ``bench.py classify``: our classifier, and snnTorch's with the same layers in its fastest variants."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spiky_rl.classification.training import compute_logits
from spiky_rl.connections.convolutional import Convolutional
from spiky_rl.networks.base import SpikingNetwork

PEER, COUNTED = "snntorch", "snntorch_counts"
"""Prefix of snnTorch's contenders, and the contender with another loss."""
RATES = (0.8, 0.2)
"""Target share of steps with an output spike: for the neuron of the true class, and for the others."""


class Ours(torch.nn.Module):
    """The network of this package."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits [B, classes] of frames [T, B, O]."""
        return compute_logits(self.network, frames)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of outputs [B, classes]."""
        return functional.cross_entropy(output, labels)


class SnnTorch(Ours):
    """snnTorch's network with a copy of our weights and a linear readout like ours.

    It runs step by step, as in its tutorial, or ``folded``: each layer computes the currents of all steps at once, then runs its neurons
    over time. ``last`` puts the channels of convolutions last; ``bfloat16`` computes products in bfloat16 by autocast.
    """

    def __init__(
        self, network: SpikingNetwork, folded: bool = False, last: bool = False, bfloat16: bool = False
    ) -> None:
        super().__init__(network)
        del self.network
        self.folded, self.autocast = folded, bfloat16
        leaky = importlib.import_module("snntorch").Leaky
        surrogate: Any = network.surrogate
        gradient = importlib.import_module("snntorch.surrogate").atan(alpha=surrogate.slope)
        layers: Any = network.layers
        neuron = next(iter(layers)).neuron

        def cell() -> torch.nn.Module:
            return leaky(
                beta=neuron.get_step_value("tau"),
                threshold=neuron.get_step_value("threshold"),
                spike_grad=gradient,
            )

        first = layers[0].connection
        self.maps = first.inputs if isinstance(first, Convolutional) else (-1,)
        self.stages = torch.nn.ModuleList(_build_stage(layer.connection, cell()) for layer in layers)
        self.readout = torch.nn.Linear(network.readout.in_features, network.readout.out_features)
        self.readout.load_state_dict(network.readout.state_dict())
        self.last = cell()
        if last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            if self.folded:
                return self.readout(self.all_spikes(frames)).mean(0).float()
            return torch.stack([self.readout(spikes) for spikes in self.spikes(frames)]).mean(0).float()

    def spikes(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield the spikes of the last hidden layer, [B, N] per step."""
        potentials: list[Tensor | None] = [None] * len(self.stages)
        for frame in frames:
            signal = frame.view(-1, *self.maps) if len(self.maps) > 1 else frame
            for i, stage in enumerate(self.stages):
                current = stage.get_submodule("current")(signal)
                start = torch.zeros_like(current) if potentials[i] is None else potentials[i]
                signal, potentials[i] = stage.get_submodule("neuron")(current, start)
            yield signal.flatten(1)

    def all_spikes(self, frames: Tensor) -> Tensor:
        """Return the spikes of the last hidden layer, [T, B, N]."""
        steps, batch, _ = frames.shape
        signal = frames.reshape(-1, *self.maps) if len(self.maps) > 1 else frames.flatten(0, 1)
        for stage in self.stages:
            current = stage.get_submodule("current")(signal)
            currents, outputs = current.unflatten(0, (steps, batch)), []
            potential = torch.zeros_like(currents[0])
            for own in currents:
                spikes, potential = stage.get_submodule("neuron")(own, potential)
                outputs.append(spikes)
            signal = torch.cat(outputs)
        return signal.flatten(1).unflatten(0, (steps, batch))


class Counted(SnnTorch):
    """snnTorch's network with the tutorial's readout and loss: spike counts of output neurons and their squared error."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network)
        self.criterion = importlib.import_module("snntorch.functional").mse_count_loss(*RATES)

    def forward(self, frames: Tensor) -> Tensor:
        potential, outputs = torch.zeros(frames.shape[1], self.readout.out_features), []
        for spikes in self.spikes(frames):
            output, potential = self.last(self.readout(spikes), potential)
            outputs.append(output)
        return torch.stack(outputs)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of output spikes [T, B, classes]."""
        return self.criterion(output, labels)


def _build_stage(link: Any, neuron: torch.nn.Module) -> torch.nn.ModuleDict:
    """Return a connection with the weights and pooling of ``link``, and the neuron."""
    if not isinstance(link, Convolutional):
        inputs, outputs = link.weight.shape
        linear = torch.nn.Linear(inputs, outputs)
        linear.load_state_dict({"weight": link.weight.t(), "bias": link.bias})
        return torch.nn.ModuleDict({"current": linear, "neuron": neuron})
    outputs, channels, size, _ = link.weight.shape
    convolution = torch.nn.Conv2d(channels, outputs, size, link.stride, link.padding)
    convolution.load_state_dict({"weight": link.weight, "bias": link.bias})
    current = torch.nn.Sequential(convolution, torch.nn.MaxPool2d(link.pool))
    return torch.nn.ModuleDict({"current": current, "neuron": neuron})


CONTENDERS: Mapping[str, Callable[[SpikingNetwork], Ours]] = {
    "spiky_rl": Ours,
    PEER: SnnTorch,
    f"{PEER}_folded": partial(SnnTorch, folded=True),
    f"{PEER}_folded_last": partial(SnnTorch, folded=True, last=True),
    f"{PEER}_folded_last_bfloat16": partial(SnnTorch, folded=True, last=True, bfloat16=True),
    COUNTED: Counted,
}
"""Contenders by name. snnTorch's variants: step by step; folded over time; also with channels last; also in bfloat16; and with its
tutorial's output and loss."""
BASELINES = tuple(name for name in CONTENDERS if name.startswith(PEER) and name != COUNTED)
"""snnTorch's variants with our loss; the fastest of them is the baseline."""
