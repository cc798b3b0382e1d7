"""A trained policy as playback uses it, whichever library trained it."""

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
from spiky_rl.metrics.video import get_spikes
from spiky_rl.networks.base import SpikingNetwork, State

EnvSelection = slice | Tensor
"""Some of the environments, by index."""
ALL_ENVS = slice(None)
BOUND = 1e6
"""Largest size of an observation, normalised where a policy normalises, that a policy takes which acts and does not learn."""
LARGEST = torch.finfo(torch.float32).max


def select_state(state: State | None, part: EnvSelection) -> State | None:
    """The ``state`` of some environments, a ``part`` of all; None: rest."""
    return None if state is None else tuple(s[:, part] for s in state)


def reset_state(state: State, dones: Tensor) -> State:
    """A ``state`` in which the environments that are ``dones`` [B] are at rest; a new one, for a rollout may hold the old."""
    done = dones.view(1, -1, 1) > 0
    return tuple(torch.where(done, torch.zeros_like(s), s) for s in state)


def clamp_observations(x: Tensor) -> Tensor:
    """Return observations ``x`` as a policy takes them that acts and does not learn: 0 for what is not a number, none beyond `BOUND`.

    One such number would otherwise stay in a state for as long as the episode lasts.
    """
    return torch.where(x.isnan(), 0.0, x).clamp(-BOUND, BOUND)


def reset_nonfinite(state: State) -> State:
    """Return a ``state`` in which what is not finite is at rest."""
    return tuple(torch.where(s.abs() <= LARGEST, s, 0.0) if s.is_floating_point() else s for s in state)


class InferencePolicy(ABC):
    """Deterministic actions of a policy that carries its own state through the episodes.

    Call it once per control step, and ``reset`` with what the environment says is done.
    """

    model: nn.Module
    network: SpikingNetwork | None
    """None for an ANN."""
    ann_operations: float
    is_plastic: bool = False
    """Whether what is plastic in its network changes while it acts; what all environments of a call do counts together."""

    @abstractmethod
    def copy(self) -> Self:
        """One with weights and a state of its own, at rest."""

    @property
    @abstractmethod
    def state(self) -> State | None:
        """The state of a spiking network before the next control step; None: rest."""

    @abstractmethod
    def __call__(self, obs: TensorDict) -> Tensor:
        """Observations, a TensorDict of [B, ...] -> actions [B, A]; the state goes on by one control step."""

    @abstractmethod
    def reset(self, dones: Tensor | None = None) -> None:
        """Put the environments that are ``dones`` [B] at rest; without ``dones``, all of them."""

    @abstractmethod
    def get_network_input(self, obs: TensorDict) -> Tensor:
        """Input of the policy's first layer for ``obs`` [B, ...]: the groups it uses, normalised, [B, O]."""

    @abstractmethod
    def compute_ann_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        """Activity of an ANN that observes ``obs``, in the environments ``part``, as `activity` is of a spiking network."""

    @cached_property
    def _meter(self) -> CostMeter | None:
        return None if self.network is None else make_meter(self.network)

    def compute_activity(self, obs: TensorDict, part: EnvSelection = ALL_ENVS) -> PolicyActivity:
        """Spikes and operations of the control step to come, which begins with ``obs``; the state stays.

        Args:
            obs: Observations of all environments, [B, ...].
            part: The environments that are looked at.
        """
        if self.network is None:
            return self.compute_ann_activity(obs, part)
        x, state = self.get_network_input(obs[part]), select_state(self.state, part)
        return activity.compute_activity(self.network, x, state, self.ann_operations, self._meter)

    def compute_spikes(self, obs: TensorDict) -> list[Tensor] | None:
        """Spikes [K, N] of every layer in the control step that begins with ``obs``, of environment 0; None for an ANN."""
        if self.network is None:
            return None
        record = activity.compute_step_activity(
            self.network, self.get_network_input(obs)[:1], select_state(self.state, slice(1))
        )
        return get_spikes(record.signal)
