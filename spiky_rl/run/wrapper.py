"""An environment of rsl_rl's in another one that looks on."""

from __future__ import annotations

from typing import Any

import torch


class EnvWrapper:
    """Passes everything on to the environment ``env``."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """As the environment's; rsl_rl assigns to it."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value
