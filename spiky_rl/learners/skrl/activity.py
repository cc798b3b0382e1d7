"""Activity of skrl's policy in its latest rollout and in playback."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, override

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.learners.common import activity
from spiky_rl.learners.common.activity import MAX_MEASURED_ENVS, PolicyActivity
from spiky_rl.learners.common.inference_policy import (
    ALL_ENVS,
    EnvSelection,
    InferencePolicy,
    clamp_observations,
    reset_nonfinite,
    reset_state,
    select_state,
)  # fmt: skip
from spiky_rl.learners.skrl.environment import SkrlEnv
from spiky_rl.learners.skrl.models import NormalizingAgent, SequenceModel
from spiky_rl.learners.skrl.ppo import SpikingAgent
from spiky_rl.metrics.meter import CostMeter
from spiky_rl.networks.base import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class SkrlInferencePolicy(InferencePolicy):
    """Inference policy of a skrl agent, with the state that skrl does not advance in inference."""

    def __init__(
        self,
        agent: NormalizingAgent,
        environment: SkrlEnv,
        policy: SequenceModel | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Initialise with the acting ``policy`` and its observation normalisation ``normalise``; None for the agent's own."""
        self.agent, self.environment = agent, environment
        self.normalise = agent.normalize_observations if normalise is None else normalise
        self.model: SequenceModel = agent.policy if policy is None else policy
        self.network, self.ann_operations = self.model.network, self.model.ann_operations
        self._state: State | None = None

    @override
    def copy(self) -> SkrlInferencePolicy:
        model, normalise = self.model.copy_for_inference(), self.agent.copy_normalisation()
        return SkrlInferencePolicy(self.agent, self.environment, model, normalise)

    @property
    @override
    def state(self) -> State | None:
        return self._state

    @override
    def __call__(self, obs: TensorDict) -> Tensor:
        inputs: dict[str, Any] = {"observations": self.get_network_input(obs)}
        if self._state is not None:
            inputs["rnn"] = list(self._state)
        with torch.no_grad():
            mean, outputs = self.model.compute(inputs)
        self._state = reset_nonfinite(tuple(outputs["rnn"])) or None
        return mean

    @override
    def reset(self, dones: Tensor | None = None) -> None:
        if dones is None:
            self._state = None
        elif self._state is not None:
            self._state = reset_state(self._state, dones)

    @override
    def get_network_input(self, obs: TensorDict) -> Tensor:
        return clamp_observations(self.normalise(self.environment.get_actor_observations(obs)))

    @override
    def compute_ann_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        x = self.get_network_input(obs[part])
        return compute_activity(self.model, x, select_state(self._state, part), None)


def compute_activity(
    policy: SequenceModel, x: Tensor, state: State | None, meter: CostMeter | None
) -> PolicyActivity:
    """Return the activity of a policy for input ``x`` [B, O] in ``state`` (None for the zero state).

    ``meter`` is the network's cost meter; None for an ANN, or to make a new one.
    """
    if policy.network is not None:
        return activity.compute_activity(policy.network, x, state, policy.ann_operations, meter)
    inputs: dict[str, Any] = {"observations": x, **({"rnn": list(state)} if state else {})}
    return activity.compute_ann_activity(policy, policy.body, lambda: policy.compute(inputs), len(x))


def compute_last_activity(agent: SpikingAgent, meter: CostMeter | None = None) -> PolicyActivity:
    """Return the policy's activity at the last control step of the rollout, over at most `MAX_MEASURED_ENVS` environments.

    ``meter`` is the network's cost meter; None to make a new one.
    """
    x = agent.normalize_observations(agent.memory.get_tensor_by_name("observations")[-1, :MAX_MEASURED_ENVS])
    return compute_activity(agent.policy, x, _get_stored_state(agent, -1, slice(MAX_MEASURED_ENVS)), meter)


def draw_raster(agent: SpikingAgent) -> Figure | None:
    """Return spike raster and membrane traces of environment 0 over the rollout of an ``agent``, or None for an ANN."""
    policy = agent.policy
    if policy.network is None:
        return None
    one = slice(1)
    x = agent.normalize_observations(agent.memory.get_tensor_by_name("observations")[:, one])
    ends = [agent.memory.get_tensor_by_name(name)[:, 0, 0] for name in ("terminated", "truncated")]
    return activity.draw_rollout_raster(
        policy.network, x, _get_stored_state(agent, 0, one), ends[0] | ends[1]
    )


def _get_stored_state(agent: SpikingAgent, step: int, environments: slice) -> State | None:
    """Return the policy's states before control step ``step`` of the rollout, from the memory."""
    tensors = [
        agent.memory.get_tensor_by_name(f"rnn_policy_{i}") for i in range(len(agent.policy.state_shapes))
    ]
    return tuple(tensor[step, environments].transpose(0, 1) for tensor in tensors) or None
