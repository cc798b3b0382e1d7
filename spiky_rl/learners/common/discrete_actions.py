"""Mapping of a policy's output to discrete actions of Gymnasium."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import gymnasium


def list_choices(space: gymnasium.Space) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the number of choices and the first choice of every component of ``space``; two empty tuples if it is not discrete."""
    from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

    if isinstance(space, Discrete):
        return (int(space.n),), (int(space.start),)
    if isinstance(space, MultiDiscrete):
        return tuple(space.nvec.ravel().tolist()), tuple(space.start.ravel().tolist())
    size = math.prod(space.shape) if isinstance(space, MultiBinary) else 0
    return (2,) * size, (0,) * size


class LargestChoice(nn.Module):
    """Mapping of scores [..., A], one per choice, to actions [..., *shape] of a discrete space: each component's largest score is chosen."""

    def __init__(self, space: gymnasium.Space) -> None:
        super().__init__()
        self.choices, first = list_choices(space)
        self.register_buffer("first", torch.tensor(first), persistent=False)
        self.first: Tensor
        self.shape = space.shape or ()

    def forward(self, scores: Tensor) -> Tensor:
        """Return the chosen actions."""
        chosen = [part.argmax(dim=-1) for part in scores.split(self.choices, dim=-1)]
        return (torch.stack(chosen, dim=-1) + self.first).reshape(scores.shape[:-1] + self.shape)
