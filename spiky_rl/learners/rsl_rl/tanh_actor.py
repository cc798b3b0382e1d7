"""Actors that end in a tanh, as of TD3 and SAC, as models of rsl_rl, which export targets take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, override

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import Distribution
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.learners.rsl_rl.model import SpikingModel


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
        return TanhAction(self.output_dim)


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


def build_tanh_actor(
    settings: Mapping[str, Any], obs: TensorDict, groups: Sequence[str], num_actions: int, features: int
) -> MLPModel:
    """Return an actor as a model of rsl_rl, with initial weights.

    Args:
        settings: ``hidden_dims``, and either the ``network`` of a `SpikingModel` or the ``activation`` of an MLP.
        obs: Observations of the environment, [B, ...].
        groups: Observation groups of the actor.
        num_actions: Number of actions, A.
        features: Number of outputs before the tanh, whose first ones are the actions.
    """
    name = f"{TanhDistribution.__module__}:{TanhDistribution.__name__}"
    distribution = {"class_name": name, "features": features}
    cls = SpikingModel if "network" in settings else MLPModel
    with torch.random.fork_rng():
        return cls(
            obs, {"actor": list(groups)}, "actor", num_actions, distribution_cfg=distribution, **settings
        )


def load_trained_parts(
    model: MLPModel, weights: Mapping[str, Any], normalization: ClippedNormalization | None
) -> None:
    """Load the ``weights`` of the network or of the MLP into a ``model``, and set its observation ``normalization``; None for none."""
    (model.network if isinstance(model, SpikingModel) else model.mlp).load_state_dict(weights)
    if normalization is not None:
        model.obs_normalization = True
        model.obs_normalizer = normalization  # type: ignore[assignment]
