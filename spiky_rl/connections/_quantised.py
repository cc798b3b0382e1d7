"""Weights of 8 bits: whole multiples, from -127 to 127, of a unit that every output neuron has for itself.

Training sees the multiples and moves the weights behind them: on the way back the rounding is not there.
Source: straight-through estimator, Bengio, Leonard & Courville (2013); a unit per output as in Jacob et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST = 127
"""The largest multiple: symmetric, so that a weight and its negative are both there."""


def compute_scales(*weights: Tensor) -> Tensor:
    """The unit of every output neuron, [N], of all ``weights`` [inputs, N] that lead to it; 1 where all of them are 0."""
    largest = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    return torch.where(largest > 0.0, largest / MOST, torch.ones_like(largest))


def quantize(weight: Tensor, unit: Tensor) -> Tensor:
    """A ``weight`` [inputs, N] as the nearest whole multiples of its neurons' ``unit`` [N], still floats."""
    return (weight.detach() / unit).round().clamp(-MOST, MOST)


class WeightQuantizer:
    """Rounds the weights of one or more matrices that lead to the same neurons, with a common unit per neuron."""

    def __init__(self, *sources: Callable[[], Tensor]) -> None:
        """``sources``: each gives a matrix [inputs, N] as it is behind the rounding."""
        self.sources = sources

    def __call__(self, weight: Tensor) -> Tensor:
        """One of the matrices, rounded; its gradient is the identity."""
        unit = compute_scales(*(source() for source in self.sources))
        # the sum is exactly the rounded weight: what is added to it is 0 and carries the gradient
        return quantize(weight, unit) * unit + (weight - weight.detach())
