"""Mapping of a policy's actions to the bounds of a task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGEST_BOUND = 1e30
"""Absolute value from which a bound counts as none: tasks write the largest float, about 3.4e38, for no bound."""


def round_inwards(bound: NDArray[Any], inwards: float) -> NDArray[np.float32]:
    """Return a ``bound`` of actions in single precision, [A]: the nearest number that is not beyond it; ``inwards``: inf or -inf."""
    exact = np.asarray(bound, np.longdouble).reshape(-1)  # holds 64-bit integers, too
    single = exact.astype(np.float32)
    is_beyond = single < exact if inwards > 0.0 else single > exact
    return np.where(is_beyond, np.nextafter(single, np.float32(inwards)), single)


class ActionMap(nn.Module):
    """Mapping of actions [..., A]: each is limited in size, scaled, added to a middle value, and the sum is clipped, then rounded if asked."""

    def __init__(
        self, limit: Tensor, scale: Tensor, middle: Tensor, low: Tensor, high: Tensor, rounds: bool = False
    ) -> None:
        """Initialise the mapping; all tensors are [A].

        Args:
            limit: Largest absolute value of an action; infinite if it is not limited.
            scale: Factor of an action.
            middle: Result of an action of 0.
            low: Smallest result.
            high: Largest result.
            rounds: Whether results are whole numbers; halves become even.
        """
        super().__init__()
        self.rounds = rounds
        self.middle, self.scale, self.limit = nn.Buffer(middle), nn.Buffer(scale), nn.Buffer(limit)
        self.low, self.high = nn.Buffer(low), nn.Buffer(high)
        self.clips = bool(low.isfinite().any() or high.isfinite().any())
        """Whether the result is clipped to ``low`` and ``high``, which are infinite where that changes nothing."""

    def forward(self, actions: Tensor) -> Tensor:
        """Return the results."""
        values = self.middle + self.scale * torch.minimum(torch.maximum(actions, -self.limit), self.limit)
        if self.clips:
            values = torch.minimum(torch.maximum(values, self.low), self.high)
        return values.round() if self.rounds else values


class ActionBounds(ActionMap):
    """Mapping of actions [..., A], clipped to [-1, 1], to their bounds.

    A component without bounds stays as it is, and one with a single bound is only clipped to it.
    """

    def __init__(self, low: Tensor, high: Tensor, clip: float | None = None, rounds: bool = False) -> None:
        """Initialise with the smallest and largest action, [A] each.

        ``clip`` is the agent's ``clip_actions``, in its own unit; ``rounds`` says whether the task takes whole numbers.
        """
        bounded = (low.abs() < LARGEST_BOUND) & (high.abs() < LARGEST_BOUND)
        middle = torch.where(bounded, (low + high) / 2.0, 0.0)
        scale = torch.where(bounded, (high - low) / 2.0, 1.0)
        limit = torch.where(bounded, 1.0, torch.inf)
        limit = limit if clip is None else limit.clamp(max=clip)
        # a single bound, or one that the rounded middle and scale miss
        reach = scale * limit
        low = torch.where((middle - reach < low) & (low.abs() < LARGEST_BOUND), low, -torch.inf)
        high = torch.where((middle + reach > high) & (high.abs() < LARGEST_BOUND), high, torch.inf)
        super().__init__(limit, scale, middle, low, high, rounds)
