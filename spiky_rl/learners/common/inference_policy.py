"""Trained policy for inference, independent of the library that trained it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Self

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from spiky_rl.learners.common import activity
from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.metrics.meter import CostMeter, make_meter
from spiky_rl.networks.base import SpikingNetwork, State

EnvSelection = slice | Tensor
"""Selection of environments by index."""
ALL_ENVS = slice(None)
MAX_OBSERVATION = 1e6
"""Maximum absolute value of an observation (after normalisation) in inference; larger values are clamped."""
MAX_FLOAT32 = torch.finfo(torch.float32).max


def select_state(state: State | None, part: EnvSelection) -> State | None:
    """Return the ``state`` of the environments in ``part``; None stands for the zero state."""
    return None if state is None else tuple(s[:, part] for s in state)


def reset_state(state: State, dones: Tensor) -> State:
    """Return a new ``state`` that is zero where ``dones`` [B]; the old one may be stored in a rollout."""
    done = dones.view(1, -1, 1) > 0
    return tuple(torch.where(done, torch.zeros_like(s), s) for s in state)


def clamp_observations(x: Tensor) -> Tensor:
    """Return observations ``x`` with NaN replaced by 0 and values clamped to `MAX_OBSERVATION`, for inference.

    Otherwise a single such value would stay in the hidden state for the rest of the episode.
    """
    return torch.where(x.isnan(), 0.0, x).clamp(-MAX_OBSERVATION, MAX_OBSERVATION)


def reset_nonfinite(state: State) -> State:
    """Return ``state`` with non-finite values replaced by 0."""
    return tuple(torch.where(s.abs() <= MAX_FLOAT32, s, 0.0) if s.is_floating_point() else s for s in state)


class InferencePolicy(ABC):
    """Deterministic policy that carries its hidden state through the episodes.

    Call it once per control step, then call ``reset`` with the ``dones`` of the environment.
    """

    model: nn.Module
    network: SpikingNetwork | None
    """None for an ANN."""
    ann_operations: float
    is_plastic: bool = False
    """Whether plastic weights change while the policy acts; all environments of a call change them together."""

    @abstractmethod
    def copy(self) -> Self:
        """Return a copy with its own weights, in the zero state."""

    @property
    @abstractmethod
    def state(self) -> State | None:
        """State of a spiking network before the next control step; None for the zero state."""

    @abstractmethod
    def __call__(self, obs: TensorDict) -> Tensor:
        """Return actions [B, A] for observations [B, ...], and advance the state by one control step."""

    @abstractmethod
    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the hidden state where ``dones`` [B]; without ``dones``, of all environments."""

    @abstractmethod
    def get_network_input(self, obs: TensorDict) -> Tensor:
        """Return the network input [B, O] for ``obs`` [B, ...]: the policy's observation groups, normalised."""

    @abstractmethod
    def compute_ann_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        """Return the activity of an ANN for ``obs`` in the environments ``part``."""

    @cached_property
    def _meter(self) -> CostMeter | None:
        return None if self.network is None else make_meter(self.network)

    def compute_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        """Return spikes and operations of the control step after ``obs`` in the environments ``part``, without advancing the state."""
        if self.network is None:
            return self.compute_ann_activity(obs, part)
        x, state = self.get_network_input(obs[part]), select_state(self.state, part)
        meter = None if self.is_plastic else self._meter  # plasticity may set weights to zero
        return activity.compute_activity(self.network, x, state, self.ann_operations, meter)

    def compute_spikes(self, obs: TensorDict) -> list[Tensor] | None:
        """Return environment 0's spikes [K, N] of every layer in the control step after ``obs``, or None for an ANN."""
        if self.network is None:
            return None
        record = activity.record_step(
            self.network, self.get_network_input(obs)[:1], select_state(self.state, slice(1))
        )
        return [spikes[0, :, 0].detach() for spikes in record.layer_spikes]
