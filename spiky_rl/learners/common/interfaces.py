"""Interfaces that all hosts share without a common base class: environments as rsl_rl sees them, and writers of a run's figures."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor


class VectorEnv(Protocol):
    """B environments at once, as `rsl_rl.env.VecEnv` declares them."""

    num_envs: int
    """B."""
    num_actions: int
    """A."""
    max_episode_length: int | Tensor
    """Control steps after which time ends an episode."""
    device: torch.device | str

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps of the episodes so far, [B]."""
        ...  # pylint: disable=unnecessary-ellipsis

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None: ...

    def get_observations(self) -> TensorDict:
        """Current observations by group, [B, ...] each."""
        ...  # pylint: disable=unnecessary-ellipsis

    def step(self, actions: Tensor, /) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Act for a control step: ``actions`` [B, A] -> observations, rewards [B], ended episodes [B], and extras."""
        ...  # pylint: disable=unnecessary-ellipsis


class ScalarWriter(Protocol):
    """TensorBoard's writer, or another of rsl_rl's; those draw no pictures."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write one value of the curve ``tag``: ``scalar_value`` at ``global_step``."""
