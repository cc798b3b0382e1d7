"""Base class of wrappers around an rsl_rl environment."""

from __future__ import annotations

from typing import Any

import torch


class EnvWrapper:
    """Wrapper that forwards every attribute to the environment ``env``."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Control steps of the current episodes, [B]; rsl_rl assigns to it."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value
