"""Population vector: every feature has its own group of neurons, and each neuron votes for its preferred value by its rate.

    y_f = sum over the group of f of w_j mean_k(s_j,k) + b_f,   w_j = preferred value / group size

The N neurons are split into F contiguous groups, whose sizes differ by at most one. Initially, preferred values are spread evenly
over [-span, span] within each group; then they are learned. A feature is a mean of votes, initially within plus or minus the
span. A spike reaches one feature, so a readout needs at most N additions instead of N F.

Source: Georgopoulos, Schwartz & Kettner (1986); Tang et al. (2020), the output populations of PopSAN, without their tanh.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.connections.base import read_weight
from spiky_rl.kernels import dispatch


class PopulationVector(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]."""

    class Options(Settings):
        span: float = option(3.0, "outermost initial preferred values, in units of the feature", low=1e-3)

    def __init__(self, options: Options, inputs: int, outputs: int) -> None:
        if inputs < outputs:
            raise RegistryError(
                f"network.decoder: population_vector needs at least one neuron for each of {outputs} features; a layer that"
                f" it reads has {inputs}; set its entry in network.layers to at least {outputs}"
            )
        super().__init__(inputs, outputs)
        groups = torch.arange(inputs).tensor_split(outputs)
        mask = torch.zeros(outputs, inputs)
        with torch.no_grad():
            self.readout.bias.zero_()
            for feature, group in enumerate(groups):
                mask[feature, group] = 1.0
                # descending, so that a group of one neuron prefers +span
                self.readout.weight[feature, group] = torch.linspace(
                    options.span, -options.span, len(group)
                ) / len(group)
            self.readout.weight *= mask
        self.register_buffer("mask", mask)
        self.mask: Tensor

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return dispatch.linear(self.backend, spikes.mean(1), self.synapses(), self.readout.bias), ()

    def unrounded_weights(self) -> Tensor:
        # masked in every call, because a learner may initialise the weights again
        return (read_weight(self.readout) * self.mask).t()

    def operations(self, spikes: Tensor) -> Tensor:
        """Count effective operations [T, B] for ``spikes`` [T, K, B, N]: one per spike, for the feature of its group."""
        return (spikes != 0).sum((1, 3))
