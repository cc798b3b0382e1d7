"""A trained actor of TD3 or SAC for export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skrl.resources.preprocessors.torch import RunningStandardScaler

from spiky_rl.learners.rsl_rl.tanh_actor import ClippedNormalization, TanhActor
from spiky_rl.learners.skrl.ann import AnnModel
from spiky_rl.learners.skrl.replay_models import ReplayActor


def describe_actor(actor: ReplayActor, config: Mapping[str, Any], normalise: object) -> TanhActor:
    """Return layers, weights and normalisation of a trained actor.

    Args:
        actor: The actor.
        config: Arguments with which it was built.
        normalise: Its observation normalisation.
    """
    body: Any = actor.body
    is_ann = isinstance(actor.body, AnnModel)
    scaler = None
    if isinstance(normalise, RunningStandardScaler):
        mean, std = normalise.running_mean.float(), normalise.running_variance.float().sqrt()
        scaler = ClippedNormalization(mean, std, normalise.epsilon, normalise.clip_threshold)
    return TanhActor(
        num_actions=actor.num_actions,
        features=(body.mlp[-1] if is_ann else body.readout).out_features,
        hidden_dims=config["hidden_dims"],
        weights=(body.mlp if is_ann else body).state_dict(),
        activation=config["ann"]["activation"] if is_ann else "elu",
        network=config.get("network"),
        normalization=scaler,
    )
