"""Faults of the policy's network: quantised weights, dead neurons, lost or spurious spikes.

A fault changes a copy of the policy, which acts in the group's environments.
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
"""Numbers of bits of a quantised weight."""
DEAD_FRACTION = 0.2
"""Share of dead neurons in a layer."""
LOST_FRACTION = 0.2
"""Probability that a spike is lost."""
PATTERNS = 8
"""Number of patterns of dead neurons; several, so that a score does not depend on a single draw."""
SPURIOUS_RATE = 0.02
"""Probability of a spurious spike per silent neuron and inner step."""


class NetworkFault(EvalCondition):
    """Abstract fault of a policy's network."""

    copies: ClassVar[int] = 1
    """Number of differently changed copies, each on an equal share of the environments."""

    @override
    def perturb_policy(self, policy: InferencePolicy) -> list[InferencePolicy]:
        # the copies must be normal tensors like the policy's own, not inference tensors
        with torch.inference_mode(False), torch.no_grad():
            copies = [policy.copy() for _ in range(min(self.copies, len(self.group.ids)))]
            for copy in copies:
                self.apply_fault(copy)
        return copies

    @abstractmethod
    def apply_fault(self, policy: InferencePolicy) -> None:
        """Change the policy's network, in place."""


class QuantizedWeights(NetworkFault):
    """Weights quantised to ``bits``, also after changes while the policy acts. Abstract: see `FAULTS`."""

    bits: int
    policy: InferencePolicy | None = None
    """The acting copy; None for random actions."""

    def apply_fault(self, policy: InferencePolicy) -> None:
        self.policy = policy
        self._round(policy)

    @override
    def step(self) -> None:
        # quantise the weights that have just changed
        if self.policy is not None and self.policy.is_plastic:
            self._round(self.policy)

    def _round(self, policy: InferencePolicy) -> None:
        for weight in get_weights(policy.model):
            weight.copy_(quantize(weight, self.bits))


class DeadNeurons(NetworkFault):
    """Dead neurons."""

    text = f"{DEAD_FRACTION:g} of the neurons of every hidden layer have no output; every episode has one of {PATTERNS} random patterns"
    requirements = ("neurons",)
    copies = PATTERNS

    def apply_fault(self, policy: InferencePolicy) -> None:
        if policy.network is None:
            self._kill_units(policy.model)
            return
        alive = [self._make_mask(width) for width in policy.network.layer_sizes]
        policy.network.set_spike_channels([lambda spikes, a=a: spikes * a for a in alive])

    def _make_mask(self, width: int) -> Tensor:
        """Return a mask [width] with 0 for dead neurons and 1 for the others; the number of dead neurons is exact."""
        order = torch.randperm(width, generator=self.generator, device=self.generator.device)
        return (order >= round(DEAD_FRACTION * width)).float()

    def _kill_units(self, model: nn.Module) -> None:
        """Zero the outgoing weights of an ANN's dead units."""
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        for module in recurrent:
            for layer in range(module.num_layers):
                alive = self._make_mask(module.hidden_size)
                next_layer = (f"weight_ih_l{layer + 1}",) if layer + 1 < module.num_layers else ()
                for name in (f"weight_hh_l{layer}", *next_layer):
                    module.get_parameter(name).mul_(alive)
            linear[0].weight.mul_(alive)  # its inputs are the units of the last recurrent layer
        for module in linear[1:]:  # the inputs of the first one are observations, or recurrent units
            module.weight.mul_(self._make_mask(module.in_features))


class LostSpikes(NetworkFault):
    """Lost spikes."""

    text = f"every spike is lost with a probability of {LOST_FRACTION:g}, before it reaches any other neuron or the readout"
    requirements = ("spikes",)

    def apply_fault(self, policy: InferencePolicy) -> None:
        assert policy.network is not None
        policy.network.set_spike_channels([self._lose] * len(policy.network.layer_sizes))

    def _lose(self, spikes: Tensor) -> Tensor:
        return spikes * (self.sample_uniform(*spikes.shape) >= LOST_FRACTION)


class SpuriousSpikes(NetworkFault):
    """Spurious spikes."""

    text = f"in every inner step, each silent neuron appears to spike with a probability of {SPURIOUS_RATE:g}"
    requirements = ("plain_spikes",)

    def apply_fault(self, policy: InferencePolicy) -> None:
        assert policy.network is not None
        policy.network.set_spike_channels([self._add] * len(policy.network.layer_sizes))

    def _add(self, spikes: Tensor) -> Tensor:
        return torch.maximum(spikes, (self.sample_uniform(*spikes.shape) < SPURIOUS_RATE).to(spikes))


def get_weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of all connections of a policy's ``model``, spiking or not, without biases; they can be changed in place."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Connection):
            yield from (p for p in module.parameters(recurse=False) if p.ndim > 1)
        elif isinstance(module, nn.RNNBase):
            yield from (p for name, p in module.named_parameters() if name.startswith("weight"))
        elif isinstance(module, Reservoir):
            yield from (module.input_weight, module.weight)


def quantize(weight: Tensor, bits: int) -> Tensor:
    """Return ``weight`` rounded to 2^``bits`` - 1 levels, evenly spaced between plus and minus its maximum absolute value."""
    max_level = 2 ** (bits - 1) - 1
    scale = weight.abs().max() / max_level
    return weight if scale == 0.0 else (weight / scale).round() * scale


FAULTS: dict[str, type[EvalCondition]] = {
    **{
        f"weights_{bits}_bits": type(
            f"QuantizedWeights{bits}",
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
