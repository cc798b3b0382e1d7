"""Quantised weights (int8): integer multiples, from -127 to 127, of a scale per output neuron.

The forward pass uses the rounded weights; the gradient ignores the rounding and trains the float weights.
Source: straight-through estimator, Bengio, Leonard & Courville (2013); a scale per output as in Jacob et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST = 127
"""Largest multiple; the range is symmetric, so that -w has a multiple if w has one."""


def compute_scales(*weights: Tensor) -> Tensor:
    """Return the scale [N] of every output neuron for all ``weights`` [inputs, N] that lead to it; 1 if all are 0."""
    largest = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    return torch.where(largest > 0.0, largest / MOST, torch.ones_like(largest))


def quantize(weight: Tensor, unit: Tensor) -> Tensor:
    """Round ``weight`` [inputs, N] to integer multiples of the scale ``unit`` [N]; the result is a float tensor."""
    return (weight.detach() / unit).round().clamp(-MOST, MOST)


class WeightQuantizer:
    """Quantiser of one or more weight matrices that lead to the same neurons, with a common scale per neuron."""

    def __init__(self, *sources: Callable[[], Tensor]) -> None:
        """``sources``: functions that return the float weights [inputs, N] of each matrix."""
        self.sources = sources

    def __call__(self, weight: Tensor) -> Tensor:
        """Return one of the matrices, rounded; the gradient is the identity."""
        unit = compute_scales(*(source() for source in self.sources))
        # weight - weight.detach() is 0 and carries the gradient
        return quantize(weight, unit) * unit + (weight - weight.detach())
