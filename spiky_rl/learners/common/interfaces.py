"""Interfaces common to all learners: rsl_rl environments, and writers of scalars."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor


class VectorEnv(Protocol):
    """B environments, with the interface of `rsl_rl.env.VecEnv`."""

    num_envs: int
    """B."""
    num_actions: int
    """A."""
    max_episode_length: int | Tensor
    """Maximum control steps of an episode."""
    device: torch.device | str

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps of the current episodes, [B]."""
        ...  # pylint: disable=unnecessary-ellipsis

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None: ...

    def get_observations(self) -> TensorDict:
        """Return the current observations by group, [B, ...] each."""
        ...  # pylint: disable=unnecessary-ellipsis

    def step(self, actions: Tensor, /) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Simulate a control step: ``actions`` [B, A] -> observations, rewards [B], dones [B], extras."""
        ...  # pylint: disable=unnecessary-ellipsis


class ScalarWriter(Protocol):
    """TensorBoard's writer, or another writer of rsl_rl, which cannot write figures."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write ``scalar_value`` at ``global_step`` of the curve ``tag``."""
