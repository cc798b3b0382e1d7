"""A trained actor of TD3 or SAC as a model of rsl_rl, which export targets take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from skrl.resources.preprocessors.torch import RunningStandardScaler
from tensordict import TensorDict

from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners.common.checkpoints import get_actor_sizes
from spiky_rl.learners.rsl_rl.actor import build_for_weights
from spiky_rl.learners.rsl_rl.model import MLPModel, SpikingModel
from spiky_rl.learners.rsl_rl.tanh_actor import ClippedNormalization, TanhDistribution
from spiky_rl.learners.skrl.replay_config import make_runner_cfg


def load_actor(spec: AgentSpec, loaded: Mapping[str, Any]) -> MLPModel:
    """Return the actor of an agent with TD3 or SAC; raises as `Learner.load_actor`."""
    config = make_runner_cfg(spec)
    weights = convert_weights(config, loaded["policy"])
    model = build_for_weights(
        lambda obs, actions: build_actor(config, obs, ["policy"], actions), weights, get_actor_sizes(loaded)
    )
    model.load_state_dict(weights)
    if state := loaded.get("observation_preprocessor"):
        scaler = RunningStandardScaler(model.obs_dim, device="cpu")
        scaler.load_state_dict(state)
        set_normalization(model, scaler)
    return model


def build_actor(config: Mapping[str, Any], obs: TensorDict, groups: Sequence[str], actions: int) -> MLPModel:
    """Return an actor with initial weights; ``config`` is that of `make_runner_cfg`.

    It acts on the ``groups`` of ``obs`` [B, ...].
    """
    policy = config["policy"]
    is_spiking = "network" in policy
    part = {"network": policy["network"]} if is_spiking else {"activation": policy["ann"]["activation"]}
    distribution = {
        "class_name": f"{TanhDistribution.__module__}:{TanhDistribution.__name__}",
        "features": 2 * actions if config["algorithm"] == "sac" else actions,  # SAC's has a deviation too
    }
    with torch.random.fork_rng():
        return (SpikingModel if is_spiking else MLPModel)(
            obs, {"actor": list(groups)}, "actor", actions,
            hidden_dims=policy["hidden_dims"], distribution_cfg=distribution, **part,
        )  # fmt: skip


def convert_weights(config: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``weights`` of skrl's policy with the names that they have in the model of `build_actor`."""
    old, new = ("body.", "network.") if "network" in config["policy"] else ("body.mlp.", "mlp.")
    return {
        f"{new}{name.removeprefix(old)}": value for name, value in weights.items() if name.startswith(old)
    }


def set_normalization(model: MLPModel, scaler: RunningStandardScaler) -> None:
    """Let a ``model`` normalise its observations as skrl's ``scaler`` does now."""
    mean, std = scaler.running_mean.float(), scaler.running_variance.float().sqrt()
    model.obs_normalization = True
    normalizer = ClippedNormalization(mean, std, scaler.epsilon, scaler.clip_threshold)
    model.obs_normalizer = normalizer  # type: ignore[assignment]
