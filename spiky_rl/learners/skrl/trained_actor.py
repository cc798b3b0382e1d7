"""A trained actor of TD3 or SAC as a model of rsl_rl, from a checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from skrl.resources.preprocessors.torch import RunningStandardScaler
from tensordict import TensorDict
from torch import nn

from spiky_rl.config.spec import AgentSpec
from spiky_rl.learners.common.checkpoints import get_actor_sizes
from spiky_rl.learners.rsl_rl.actor import find_sizes
from spiky_rl.learners.rsl_rl.tanh_actor import ClippedNormalization, build_tanh_actor, load_trained_parts
from spiky_rl.learners.skrl.replay_config import make_runner_cfg


def load_actor(spec: AgentSpec, loaded: Mapping[str, Any]) -> nn.Module:
    """Return the actor of an agent with TD3 or SAC; raises as `Learner.load_actor`."""
    config = make_runner_cfg(spec)["policy"]
    is_spiking = config.get("network") is not None
    part = {"network": config["network"]} if is_spiking else {"activation": config["ann"]["activation"]}
    settings = {"hidden_dims": list(config["hidden_dims"]), **part}
    body = "body." if is_spiking else "body.mlp."
    weights = {
        key.removeprefix(body): value for key, value in loaded["policy"].items() if key.startswith(body)
    }
    features_per_action = 2 if spec.algorithm == "sac" else 1  # SAC's actor has a standard deviation too

    def build(inputs: int, actions: int) -> Any:
        obs = TensorDict({"policy": torch.zeros(1, inputs)}, batch_size=[1])
        return build_tanh_actor(settings, obs, ["policy"], actions, features_per_action * actions)

    name = "network." if is_spiking else "mlp."
    shapes = {name + key: value.shape for key, value in weights.items()}
    model = build(*(get_actor_sizes(loaded) or find_sizes(build, shapes)))
    normalization = None
    if state := loaded.get("observation_preprocessor"):
        scaler = RunningStandardScaler(model.obs_dim, device="cpu")
        scaler.load_state_dict(state)
        normalization = convert_scaler(scaler)
    load_trained_parts(model, weights, normalization)
    return model


def convert_scaler(scaler: RunningStandardScaler) -> ClippedNormalization:
    """Return skrl's ``scaler`` of observations as a module of the exported policy."""
    mean, std = scaler.running_mean.float(), scaler.running_variance.float().sqrt()
    return ClippedNormalization(mean, std, scaler.epsilon, scaler.clip_threshold)
