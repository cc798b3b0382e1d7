"""A trained actor of TD3 or SAC as a model of rsl_rl, which export targets take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, override

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import Distribution
from skrl.resources.preprocessors.torch import RunningStandardScaler
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.learners.skrl.ann import AnnModel
from spiky_rl.learners.skrl.replay_models import Actor


class TanhAction(nn.Module):
    """tanh of the first ``num_actions`` features."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.num_actions = num_actions

    def forward(self, features: Tensor) -> Tensor:
        """Return actions [..., A] for ``features`` [..., F]."""
        return torch.tanh(features[..., : self.num_actions])


class TanhDistribution(Distribution):
    """The noise-free action of an actor of TD3 or SAC; there is nothing to sample."""

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
    """skrl's observation normalisation with fixed mean and deviation."""

    def __init__(self, scaler: RunningStandardScaler) -> None:
        super().__init__()
        self.eps, self.bound = scaler.epsilon, scaler.clip_threshold
        self.register_buffer("mean", scaler.running_mean.float())
        self.register_buffer("std", scaler.running_variance.float().sqrt())
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised observations [..., O], at most the bound of skrl's scaler."""
        return torch.clamp((x - self.mean) / (self.std + self.eps), -self.bound, self.bound)


def make_exported_policy(
    actor: Actor, config: Mapping[str, Any], normalise: object, obs: TensorDict, groups: Sequence[str]
) -> MLPModel:
    """Return a model of rsl_rl with the weights of an ``actor``.

    Args:
        actor: The trained actor.
        config: Arguments with which it was built.
        normalise: Its observation normalisation.
        obs: Observations of the environment, [B, ...].
        groups: Observation groups of the actor.
    """
    body = actor.body
    last = body.mlp[-1] if isinstance(body, AnnModel) else body.readout
    features = last.out_features  # type: ignore[union-attr]
    shared: dict[str, Any] = {
        "obs": obs,
        "obs_groups": {"actor": list(groups)},
        "obs_set": "actor",
        "output_dim": actor.num_actions,
        "hidden_dims": config["hidden_dims"],
        "distribution_cfg": {
            "class_name": f"{__name__}:{TanhDistribution.__name__}",
            "features": features,
        },
    }
    model: MLPModel
    with torch.random.fork_rng():  # its first weights are replaced
        if isinstance(body, AnnModel):
            model = MLPModel(**shared, activation=config["ann"]["activation"])
            model.mlp.load_state_dict(body.mlp.state_dict())
        else:
            model = SpikingModel(**shared, network=config["network"])
            model.network.load_state_dict(body.state_dict())
    if isinstance(normalise, RunningStandardScaler):
        model.obs_normalization, model.obs_normalizer = True, ClippedNormalization(normalise)
    return model.to(last.weight.device).eval()  # type: ignore[union-attr]
