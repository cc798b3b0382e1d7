"""Quantised weights (int8): integer multiples, from -127 to 127, of a scale per output neuron.

The forward pass uses the rounded weights; the gradient ignores the rounding and trains the float weights.
Source: straight-through estimator, Bengio, Leonard & Courville (2013); a scale per output as in Jacob et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_MULTIPLE = 127
"""Largest multiple of the scale; the smallest is -127, so that -w is a multiple whenever w is one."""


def compute_scales(*weights: Tensor) -> Tensor:
    """Return the scale [N] of every output neuron: its largest absolute weight in all ``weights`` [inputs, N] over 127; 1 if all are 0."""
    largest = torch.stack([weight.detach().abs().amax(0) for weight in weights]).amax(0)
    return torch.where(largest > 0.0, largest / MAX_MULTIPLE, torch.ones_like(largest))


def quantize(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the integer multiples of the ``scale`` [N] nearest to ``weight`` [inputs, N], as floats."""
    return (weight.detach() / scale).round().clamp(-MAX_MULTIPLE, MAX_MULTIPLE)


class WeightQuantizer:
    """Quantiser of one or more weight matrices that lead to the same neurons, with a common scale per neuron."""

    def __init__(self, *sources: Callable[[], Tensor]) -> None:
        """Take one function per matrix in ``sources`` that returns its float weights [inputs, N]."""
        self.sources = sources

    def __call__(self, weight: Tensor) -> Tensor:
        """Return ``weight``, one of the matrices, rounded to multiples of the scale; its gradient is that of the result."""
        scale = compute_scales(*(source() for source in self.sources))
        # weight - weight.detach() is 0 and carries the gradient
        return quantize(weight, scale) * scale + (weight - weight.detach())
