"""Activity of rsl_rl's actor in its latest rollout and in playback."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, override

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.modules import HiddenState
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.learners.common import activity
from spiky_rl.learners.common.activity import MAX_MEASURED_ENVS, PolicyActivity
from spiky_rl.learners.common.inference_policy import ALL_ENVS, EnvSelection, InferencePolicy, select_state
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.metrics.meter import CostMeter
from spiky_rl.networks.base import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RslRlInferencePolicy(InferencePolicy):
    """Inference policy of an rsl_rl actor, spiking or not."""

    model: MLPModel

    def __init__(self, model: MLPModel) -> None:
        self.model = model
        spiking = isinstance(model, SpikingModel)
        self.network = model.network if spiking else None
        self.ann_operations = model.ann_operations if spiking else 0.0

    @property
    @override
    def state(self) -> State | None:
        return self.model.state if isinstance(self.model, SpikingModel) else None

    @override
    def copy(self) -> RslRlInferencePolicy:
        if (distribution := self.model.distribution) is not None:
            # after an update it holds tensors of an autograd graph, which cannot be copied
            size = distribution.input_dim
            with torch.no_grad():
                distribution.update(torch.zeros(1, *([size] if isinstance(size, int) else size)))
        model = copy.deepcopy(self.model)
        model.reset()
        return RslRlInferencePolicy(model)

    @override
    def __call__(self, obs: TensorDict) -> Tensor:
        if self.is_plastic:
            assert isinstance(self.model, SpikingModel)
            obs = self.model.add_features(obs, adapt=True)
        return self.model(obs)

    @override
    def reset(self, dones: Tensor | None = None) -> None:
        self.model.reset(dones)

    @override
    def get_network_input(self, obs: TensorDict) -> Tensor:
        assert isinstance(self.model, SpikingModel)
        return self.model.get_latent(obs)

    @override
    def compute_ann_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        hidden = self.model.get_hidden_state()
        if isinstance(hidden, tuple):
            return _ann_activity(self.model, obs[part], select_state(hidden, part))
        return _ann_activity(self.model, obs[part], None if hidden is None else hidden[:, part])


def _ann_activity(model: MLPModel, obs: TensorDict, hidden: HiddenState | State) -> PolicyActivity:
    """Return the activity of an rsl_rl ANN for ``obs`` in the state ``hidden``; the model's own state does not change."""
    parts = [part for name in ("cnns", "rnn", "mlp") if (part := getattr(model, name, None)) is not None]
    own_state = model.get_hidden_state()
    model.reset(hidden_state=hidden)  # type: ignore[arg-type]  # a recurrent layer has one or two
    ann_activity = activity.compute_ann_activity(
        model, nn.ModuleList(parts), lambda: model(obs), obs.batch_size[0]
    )
    model.reset(hidden_state=own_state)
    return ann_activity


def compute_last_activity(algorithm: PPO, meter: CostMeter | None = None) -> PolicyActivity:
    """Return the actor's activity at the last control step of the rollout, over at most `MAX_MEASURED_ENVS` environments.

    ``meter`` is the actor's cost meter; None to make a new one.
    """
    actor, storage = algorithm.get_policy(), algorithm.storage
    saved = storage.saved_hidden_state_a if actor.is_recurrent else None
    obs: TensorDict = storage.observations[-1][:MAX_MEASURED_ENVS]  # type: ignore[assignment]
    if not isinstance(actor, SpikingModel):
        hidden = tuple(s[-1][:, :MAX_MEASURED_ENVS].contiguous() for s in saved or ())
        return _ann_activity(actor, obs, hidden if len(hidden) > 1 else next(iter(hidden), None))
    with torch.no_grad():
        x = actor.get_latent(obs)
    if saved:
        state = tuple(s[-1] for s in saved)
    else:  # nothing is replayed, so no state is stored; the state after the step serves as well for counting spikes
        state = actor.state if actor.network.stateful else None
    return activity.compute_activity(
        actor.network, x, select_state(state, slice(MAX_MEASURED_ENVS)), actor.ann_operations, meter
    )


def draw_raster(algorithm: PPO) -> Figure:
    """Return spike raster and membrane traces of environment 0 over the rollout of an ``algorithm`` with a spiking actor."""
    actor, storage = algorithm.get_policy(), algorithm.storage
    assert isinstance(actor, SpikingModel)
    one = slice(1)
    with torch.no_grad():
        x = actor.get_latent(storage.observations[:, one])  # type: ignore[arg-type]
    saved = storage.saved_hidden_state_a if actor.is_recurrent else None
    state = tuple(s[0, :, one] for s in saved) if saved else None
    return activity.draw_rollout_raster(actor.network, x, state, storage.dones[:, 0])
