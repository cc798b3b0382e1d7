"""Parts of rsl_rl's models for actors that end in a tanh, as those of TD3 and SAC."""

from __future__ import annotations

from typing import override

import torch
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn


class TanhAction(nn.Module):
    """tanh of the first ``num_actions`` features."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.num_actions = num_actions

    def forward(self, features: Tensor) -> Tensor:
        """Return actions [..., A] for ``features`` [..., F]."""
        return torch.tanh(features[..., : self.num_actions])


class TanhDistribution(Distribution):
    """The noise-free action of an actor that ends in a tanh; it is for inference only."""

    def __init__(self, output_dim: int, features: int) -> None:
        """Initialise for ``output_dim`` actions and the number of the actor's ``features``."""
        super().__init__(output_dim)
        self.features = features
        self.action = TanhAction(output_dim)

    @property
    def input_dim(self) -> int:
        """Number of features."""
        return self.features

    @override
    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        return self.action(mlp_output)

    @override
    def as_deterministic_output_module(self) -> nn.Module:
        return self.action


class ClippedNormalization(nn.Module):
    """Observation normalisation with fixed mean and deviation, and a bound."""

    def __init__(self, mean: Tensor, std: Tensor, eps: float, bound: float) -> None:
        """Initialise; ``mean`` and ``std``: [O] each; ``eps``: added to the deviation."""
        super().__init__()
        self.eps, self.bound = eps, bound
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised observations [..., O], at most `bound`."""
        return torch.clamp((x - self.mean) / (self.std + self.eps), -self.bound, self.bound)
