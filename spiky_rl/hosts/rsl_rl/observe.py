"""What a spiking model does, seen from the rollout that it was just trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from torch import Tensor

from spiky_rl.hosts.rsl_rl.model import SpikingModel
from spiky_rl.metrics.spikes import Firing, firing, mean_rate, picture, timelines
from spiky_rl.metrics.synops import dense_operations, effective_operations
from spiky_rl.networks.base import Record


@dataclass(frozen=True)
class Activity:
    """One model's activity and cost per control step."""

    layers: list[Firing]
    rate: float
    """Mean spikes per neuron and inner step; 0 for an ANN."""
    operations: float
    """Effective synaptic operations per control step; an ANN's multiply-accumulates."""
    ann_operations: float
    """Multiply-accumulates of the ANN in the model's place: Isaac Lab's own network for the task."""


def activity(model: Any, x: Tensor | None = None, state: tuple[Tensor, ...] | None = None) -> Activity:
    """Activity of a model for normalised observations x [B, O] and its state; an ANN needs neither."""
    if not isinstance(model, SpikingModel):
        operations = dense_operations(model)
        return Activity([], 0.0, operations, operations)
    assert x is not None
    record = Record()
    with torch.no_grad():
        model.network(x.unsqueeze(0), state or model.network.zero_state(x.shape[0], x), record=record)
    layers = firing(record)
    return Activity(layers, mean_rate(layers, record), effective_operations(record), model.ann_operations)


def last_activity(algorithm: PPO, samples: int = 512) -> Activity:
    """The actor's activity at the last control step of the rollout, over at most ``samples`` environments."""
    actor, storage = algorithm.get_policy(), algorithm.storage
    if not isinstance(actor, SpikingModel):
        return activity(actor)
    with torch.no_grad():
        x = actor.get_latent(storage.observations[-1][:samples])  # type: ignore[arg-type]
        saved = storage.saved_hidden_state_a if actor.is_recurrent else None
        state = tuple(s[-1, :, :samples] for s in saved) if saved else None
        return activity(actor, x, state)


def raster(algorithm: PPO, environment: int = 0) -> Any:
    """Spike raster and membrane traces of one environment over the rollout, as a matplotlib figure."""
    actor, storage = algorithm.get_policy(), algorithm.storage
    assert isinstance(actor, SpikingModel)
    network, record = actor.network, Record()
    with torch.no_grad():
        x = actor.get_latent(storage.observations[:, environment : environment + 1])  # type: ignore[arg-type]
        if network.stateful:
            saved = storage.saved_hidden_state_a
            state = (
                tuple(s[0, :, environment : environment + 1] for s in saved)
                if saved
                else network.zero_state(1, x)
            )
            begins = torch.roll(storage.dones[:, environment], 1, 0).float()
            begins[0] = 0.0
            network(x, state, keep=1.0 - begins, record=record)
        else:
            network(x.transpose(0, 1), network.zero_state(x.shape[0], x), record=record)
    return picture(*timelines(record, network.stateful), network.steps)
