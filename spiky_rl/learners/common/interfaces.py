"""Interfaces common to all learners: rsl_rl environments and their settings, and writers of scalars."""

from __future__ import annotations

import dataclasses
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


class EnvSettings:
    """Configuration of an environment with the method ``to_dict`` that writers of rsl_rl call."""

    def __init__(self, cfg: Any) -> None:
        """Keep ``cfg``: a mapping, a dataclass, or an object with ``to_dict``, such as Isaac Lab's."""
        self.cfg = cfg

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        if hasattr(self.cfg, "to_dict"):
            return self.cfg.to_dict()
        return dataclasses.asdict(self.cfg) if dataclasses.is_dataclass(self.cfg) else dict(self.cfg)  # type: ignore[arg-type]
