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
from spiky_rl.hosts.isaaclab.conditions.base import EvalCondition
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.networks.reservoir import Reservoir

BITS = (8, 4)
"""Numbers of bits that a weight may have."""
DEAD_FRACTION = 0.2
"""Share of a layer's neurons that are dead."""
LOST_FRACTION = 0.2
"""Probability that a spike arrives nowhere."""
PATTERNS = 8
"""Number of patterns of dead neurons: few episodes share one, so that a score is no matter of a single draw."""
SPURIOUS_RATE = 0.02
"""Probability that a neuron which is silent in an inner step seems to spike in it."""


class NetworkFault(EvalCondition):
    """A policy whose network is changed. Abstract: its subclasses say how."""

    copies: ClassVar[int] = 1
    """Number of copies that are changed, each in its own way, on an equal share of the environments."""

    @override
    def perturb_policy(self, policy: InferencePolicy) -> list[InferencePolicy]:
        # copies of tensors that torch can follow, as the policy's own are
        with torch.inference_mode(False), torch.no_grad():
            copies = [policy.copy() for _ in range(min(self.copies, len(self.group.ids)))]
            for copy in copies:
                self.apply_fault(copy)
        return copies

    @abstractmethod
    def apply_fault(self, policy: InferencePolicy) -> None:
        """Change the policy's network, in place."""


class QuantizedWeights(NetworkFault):
    """Weights of few bits, also where they change while the policy acts. Abstract: see `FAULTS`."""

    bits: int
    policy: InferencePolicy | None = None
    """The copy that acts; None where actions are random."""

    def apply_fault(self, policy: InferencePolicy) -> None:
        self.policy = policy
        self._round(policy)

    @override
    def step(self) -> None:
        # what has just been learned is kept in as few bits
        if self.policy is not None and self.policy.is_plastic:
            self._round(self.policy)

    def _round(self, policy: InferencePolicy) -> None:
        for weight in get_weights(policy.model):
            weight.copy_(quantize(weight, self.bits))


class DeadNeurons(NetworkFault):
    """Neurons that have died."""

    text = f"{DEAD_FRACTION:g} of the neurons of every hidden layer have no output; {PATTERNS} patterns are drawn, of which every episode has one"
    requirements = ("neurons",)
    copies = PATTERNS

    def apply_fault(self, policy: InferencePolicy) -> None:
        if policy.network is None:
            self._kill_units(policy.model)
            return
        alive = [self._make_mask(width) for width in policy.network.layer_sizes]
        policy.network.set_spike_channels([lambda spikes, a=a: spikes * a for a in alive])

    def _make_mask(self, width: int) -> Tensor:
        """0 for neurons that are dead and 1 for the others, [width]; the number of dead ones is exact."""
        order = torch.randperm(width, generator=self.generator, device=self.generator.device)
        return (order >= round(DEAD_FRACTION * width)).float()

    def _kill_units(self, model: nn.Module) -> None:
        """Let nobody read the outputs of an ANN's dead units."""
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        for module in recurrent:
            for layer in range(module.num_layers):
                alive = self._make_mask(module.hidden_size)
                later = (f"weight_ih_l{layer + 1}",) if layer + 1 < module.num_layers else ()
                for name in (f"weight_hh_l{layer}", *later):
                    module.get_parameter(name).mul_(alive)
            linear[0].weight.mul_(alive)
        for module in linear[1:]:
            module.weight.mul_(self._make_mask(module.in_features))


class LostSpikes(NetworkFault):
    """Spikes that do not arrive."""

    text = f"every spike is lost with a probability of {LOST_FRACTION:g}, before it reaches any other neuron or the readout"
    requirements = ("spikes",)

    def apply_fault(self, policy: InferencePolicy) -> None:
        assert policy.network is not None
        policy.network.set_spike_channels([self._lose] * len(policy.network.layer_sizes))

    def _lose(self, spikes: Tensor) -> Tensor:
        return spikes * (self.sample_uniform(*spikes.shape) >= LOST_FRACTION)


class SpuriousSpikes(NetworkFault):
    """Spikes that no neuron sent."""

    text = f"every neuron that is silent in an inner step seems to spike in it with a probability of {SPURIOUS_RATE:g}"
    requirements = ("plain_spikes",)

    def apply_fault(self, policy: InferencePolicy) -> None:
        assert policy.network is not None
        policy.network.set_spike_channels([self._add] * len(policy.network.layer_sizes))

    def _add(self, spikes: Tensor) -> Tensor:
        return torch.maximum(spikes, (self.sample_uniform(*spikes.shape) < SPURIOUS_RATE).to(spikes))


def get_weights(model: nn.Module) -> Iterator[Tensor]:
    """The weights of all connections of a policy's ``model``, spiking or not, to be changed in place; biases are none."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Connection):
            yield from (p for p in module.parameters(recurse=False) if p.ndim > 1)
        elif isinstance(module, nn.RNNBase):
            yield from (p for name, p in module.named_parameters() if name.startswith("weight"))
        elif isinstance(module, Reservoir):
            yield from (module.input_weight, module.weight)


def quantize(weight: Tensor, bits: int) -> Tensor:
    """The values of ``weight`` rounded to 2^``bits`` - 1 levels, evenly between plus and minus the largest of them."""
    most = 2 ** (bits - 1) - 1
    size = weight.abs().max() / most
    return weight if size == 0.0 else (weight / size).round() * size


FAULTS: dict[str, type[EvalCondition]] = {
    **{
        f"weights_{bits}_bits": type(
            f"CoarseWeights{bits}",
            (QuantizedWeights,),
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
