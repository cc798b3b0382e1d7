"""What every decoder is: spikes of the last layer into the numbers that the host's distribution reads."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.registry import Component


class Decoder(Component, torch.nn.Module):
    """Turns spikes [T, K, B, N] into features [T, B, F]."""

    readout: torch.nn.Linear
    """The learned weights N -> F."""

    state_width: int = 0
    """Width of the state that is carried between control steps; 0: none."""

    @abstractmethod
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...], keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features [T, B, F] and the new state, from the state before ([B, F] each, or none) and keep [T, B]."""

    def operations(self, spikes: Tensor) -> Tensor:
        """Effective operations for spikes [T, K, B, N]: non-zero inputs times F, [T, B]."""
        return (spikes != 0).sum((1, 3)) * self.readout.out_features
