"""Faults of the policy's own network: coarse weights, dead neurons, spikes that are lost or come from nowhere.

They change a copy of the policy, which acts in its place on the group's environments.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, override

import torch
from torch import Tensor, nn

from spiky_rl.connections.base import Connection
from spiky_rl.hosts.isaaclab.conditions.base import Condition, Policy
from spiky_rl.networks.reservoir import Reservoir

BITS = (8, 4)
"""Numbers of bits that a weight may have."""
DEAD = 0.2
"""Share of a layer's neurons that are dead."""
LOST = 0.2
"""Probability that a spike arrives nowhere."""
PATTERNS = 8
"""Number of patterns of dead neurons: few episodes share one, so that a score is no matter of a single draw."""
SPURIOUS = 0.02
"""Probability that a neuron which is silent in an inner step seems to spike in it."""


class Fault(Condition):
    """A policy whose network is changed. Abstract: its subclasses say how."""

    copies: ClassVar[int] = 1
    """Number of copies that are changed, each in its own way, on an equal share of the environments."""

    @override
    def changed(self, policy: Policy) -> list[Policy]:
        # copies of tensors that torch can follow, as the policy's own are
        with torch.inference_mode(False), torch.no_grad():
            copies = [policy.copy() for _ in range(min(self.copies, len(self.group.ids)))]
            for copy in copies:
                self.spoil(copy)
        return copies

    @abstractmethod
    def spoil(self, policy: Policy) -> None:
        """Change the policy's network, in place."""


class CoarseWeights(Fault):
    """Weights of few bits, also where they change while the policy acts. Abstract: see `FAULTS`."""

    bits: int
    policy: Policy | None = None
    """The copy that acts; None where actions are random."""

    def spoil(self, policy: Policy) -> None:
        self.policy = policy
        self._round(policy)

    @override
    def step(self) -> None:
        # what has just been learned is kept in as few bits
        if self.policy is not None and self.policy.adapts:
            self._round(self.policy)

    def _round(self, policy: Policy) -> None:
        for weight in weights(policy.model):
            weight.copy_(quantised(weight, self.bits))


class DeadNeurons(Fault):
    """Neurons that have died."""

    text = f"{DEAD:g} of the neurons of every hidden layer have no output; {PATTERNS} patterns are drawn, of which every episode has one"
    needs = ("neurons",)
    copies = PATTERNS

    def spoil(self, policy: Policy) -> None:
        if policy.network is None:
            self._kill_units(policy.model)
            return
        alive = [self._alive(width) for width in policy.network.widths]
        policy.network.disturb([lambda spikes, a=a: spikes * a for a in alive])

    def _alive(self, width: int) -> Tensor:
        """0 for neurons that are dead and 1 for the others, [width]; the number of dead ones is exact."""
        order = torch.randperm(width, generator=self.generator, device=self.generator.device)
        return (order >= round(DEAD * width)).float()

    def _kill_units(self, model: nn.Module) -> None:
        """Let nobody read the outputs of an ANN's dead units."""
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        for module in recurrent:
            for layer in range(module.num_layers):
                alive = self._alive(module.hidden_size)
                later = (f"weight_ih_l{layer + 1}",) if layer + 1 < module.num_layers else ()
                for name in (f"weight_hh_l{layer}", *later):
                    module.get_parameter(name).mul_(alive)
            linear[0].weight.mul_(alive)
        for module in linear[1:]:
            module.weight.mul_(self._alive(module.in_features))


class LostSpikes(Fault):
    """Spikes that do not arrive."""

    text = f"every spike is lost with a probability of {LOST:g}, before it reaches any other neuron or the readout"
    needs = ("spikes",)

    def spoil(self, policy: Policy) -> None:
        assert policy.network is not None
        policy.network.disturb([self._lose] * len(policy.network.widths))

    def _lose(self, spikes: Tensor) -> Tensor:
        return spikes * (self.uniform(*spikes.shape) >= LOST)


class SpuriousSpikes(Fault):
    """Spikes that no neuron sent."""

    text = f"every neuron that is silent in an inner step seems to spike in it with a probability of {SPURIOUS:g}"
    needs = ("plain_spikes",)

    def spoil(self, policy: Policy) -> None:
        assert policy.network is not None
        policy.network.disturb([self._add] * len(policy.network.widths))

    def _add(self, spikes: Tensor) -> Tensor:
        return torch.maximum(spikes, (self.uniform(*spikes.shape) < SPURIOUS).to(spikes))


def weights(model: nn.Module) -> Iterator[Tensor]:
    """The weights of all connections of a policy's ``model``, spiking or not, to be changed in place; biases are none."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Connection):
            yield from (p for p in module.parameters(recurse=False) if p.ndim > 1)
        elif isinstance(module, nn.RNNBase):
            yield from (p for name, p in module.named_parameters() if name.startswith("weight"))
        elif isinstance(module, Reservoir):
            yield from (module.input_weight, module.weight)


def quantised(weight: Tensor, bits: int) -> Tensor:
    """The values of ``weight`` rounded to 2^``bits`` - 1 levels, evenly between plus and minus the largest of them."""
    most = 2 ** (bits - 1) - 1
    size = weight.abs().max() / most
    return weight if size == 0.0 else (weight / size).round() * size


FAULTS: dict[str, type[Condition]] = {
    **{
        f"weights_{bits}_bits": type(
            f"CoarseWeights{bits}",
            (CoarseWeights,),
            {
                "bits": bits,
                "text": f"every weight is rounded to {bits} bits, with one scale for each matrix; biases and states are not",
            },
        )
        for bits in BITS
    },
    "dead_neurons": DeadNeurons,
    "lost_spikes": LostSpikes,
    "spurious_spikes": SpuriousSpikes,
}
