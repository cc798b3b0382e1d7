"""Activity of skrl's policy: in the rollout that it was just trained on, and in playback."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, override

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.common import observe
from spiky_rl.hosts.common.observe import SAMPLES, Activity
from spiky_rl.hosts.common.playing import (
    ALL, Part, PlayedPolicy, clamp_observations, part_of, reset_nonfinite, rested,
)  # fmt: skip
from spiky_rl.hosts.skrl.environment import Environment
from spiky_rl.hosts.skrl.models import SpikingPolicy
from spiky_rl.hosts.skrl.ppo import SpikingAgent
from spiky_rl.metrics.meter import Meter
from spiky_rl.networks.base import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Played(PlayedPolicy):
    """The policy of one of skrl's agents, with the state that skrl itself does not advance when it only acts."""

    def __init__(
        self,
        agent: SpikingAgent,
        environment: Environment,
        policy: SpikingPolicy | None = None,
        normalise: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """``policy`` and ``normalise``: the policy that acts, and its normalisation of observations; None: the agent's own."""
        self.agent, self.environment = agent, environment
        self.normalise = agent.normalised if normalise is None else normalise
        self.model: SpikingPolicy = agent.policy if policy is None else policy
        self.network, self.ann_operations = self.model.network, self.model.ann_operations
        self._state: State | None = None

    @override
    def copy(self) -> Played:
        # the distribution of the last update holds tensors of a gradient's graph, which cannot be copied
        model = copy.deepcopy(self.model, {id(self.model.distribution()): None})
        return Played(self.agent, self.environment, model, self.agent.copy_normalisation())

    @property
    @override
    def state(self) -> State | None:
        return self._state

    @override
    def __call__(self, obs: TensorDict) -> Tensor:
        inputs: dict[str, Any] = {"observations": self.seen(obs)}
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
            self._state = rested(self._state, dones)

    @override
    def seen(self, obs: TensorDict) -> Tensor:
        return clamp_observations(self.normalise(self.environment.observations(obs)))

    @override
    def ann_activity(self, obs: TensorDict, part: Part = ALL) -> Activity:
        return _ann_activity(self.model, self.seen(obs[part]), part_of(self._state, part))


def _ann_activity(policy: SpikingPolicy, x: Tensor, state: State | None) -> Activity:
    """Activity of an ANN that sees x [B, O] in a state (None: rest)."""
    inputs: dict[str, Any] = {"observations": x, **({"rnn": list(state)} if state else {})}
    return observe.ann_activity(policy, policy.body, lambda: policy.compute(inputs), len(x))


def last_activity(agent: SpikingAgent, meter: Meter | None = None) -> Activity:
    """Activity of an agent's policy at the last control step of its rollout, over some of the environments.

    Args:
        agent: The agent.
        meter: Its network's; None: a new one.
    """
    policy = agent.policy
    x = agent.normalised(agent.stored("observations")[-1, :SAMPLES])
    state = _stored(agent, -1, slice(SAMPLES))
    if policy.network is None:
        return _ann_activity(policy, x, state)
    return observe.activity(policy.network, x, state, policy.ann_operations, meter)


def raster(agent: SpikingAgent) -> Figure | None:
    """Spike raster and membrane traces of environment 0 over the rollout of an ``agent``; None for an ANN."""
    policy = agent.policy
    if policy.network is None:
        return None
    one = slice(1)
    x = agent.normalised(agent.stored("observations")[:, one])
    ends = [agent.stored(name)[:, 0, 0] for name in ("terminated", "truncated")]
    return observe.raster(policy.network, x, _stored(agent, 0, one), ends[0] | ends[1])


def _stored(agent: SpikingAgent, step: int, environments: slice) -> State | None:
    """The policy's states before a control step of the rollout, as the memory has them."""
    names = [f"rnn_policy_{i}" for i in range(len(agent.policy.state_shapes))]
    return tuple(tensor[step, environments].transpose(0, 1) for tensor in map(agent.stored, names)) or None
