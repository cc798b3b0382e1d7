"""Mapping of a policy's actions to the bounds of a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_BOUND = 1e30
"""Absolute value from which a bound counts as none: tasks write the largest float, about 3.4e38, for no bound."""


class ActionBounds(nn.Module):
    """Mapping of actions [..., A], clipped to [-1, 1], to their bounds.

    A component without bounds stays as it is, and one with a single bound is only clipped to it.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        """Initialise with the smallest and largest action, [A] each."""
        super().__init__()
        bounded = (low.abs() < LARGEST_BOUND) & (high.abs() < LARGEST_BOUND)
        self.register_buffer("middle", torch.where(bounded, (low + high) / 2.0, 0.0))
        self.register_buffer("scale", torch.where(bounded, (high - low) / 2.0, 1.0))
        self.register_buffer("limit", torch.where(bounded, 1.0, torch.inf))
        # a single bound, or one that the rounded middle and scale miss
        reach = self.scale * self.limit
        too_low, too_high = self.middle - reach < low, self.middle + reach > high
        self.register_buffer("low", torch.where(too_low & (low.abs() < LARGEST_BOUND), low, -torch.inf))
        self.register_buffer("high", torch.where(too_high & (high.abs() < LARGEST_BOUND), high, torch.inf))
        self.clips = bool(self.low.isfinite().any() or self.high.isfinite().any())
        """Whether the result is clipped to ``low`` and ``high``, which are infinite where that changes nothing."""
        self.middle: Tensor
        self.scale: Tensor
        self.limit: Tensor
        self.low: Tensor
        self.high: Tensor

    def forward(self, actions: Tensor) -> Tensor:
        """Return actions in the task's units."""
        values = self.middle + self.scale * torch.minimum(torch.maximum(actions, -self.limit), self.limit)
        return torch.minimum(torch.maximum(values, self.low), self.high) if self.clips else values
