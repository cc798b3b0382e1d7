"""Mapping of a policy's actions to the bounds of a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_BOUND = 1e30
"""Absolute value from which a bound counts as none: tasks write the largest float, about 3.4e38, for no bound."""


class ActionBounds(nn.Module):
    """Mapping of actions [..., A], clipped to [-1, 1], to their bounds; a component without bounds stays as it is."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        """Initialise with the smallest and largest action, [A] each."""
        super().__init__()
        bounded = (low.abs() < LARGEST_BOUND) & (high.abs() < LARGEST_BOUND)
        self.register_buffer("middle", torch.where(bounded, (low + high) / 2.0, 0.0))
        self.register_buffer("scale", torch.where(bounded, (high - low) / 2.0, 1.0))
        self.register_buffer("limit", torch.where(bounded, 1.0, torch.inf))
        self.middle: Tensor
        self.scale: Tensor
        self.limit: Tensor

    def forward(self, actions: Tensor) -> Tensor:
        """Return actions in the task's units."""
        return self.middle + self.scale * torch.minimum(torch.maximum(actions, -self.limit), self.limit)
