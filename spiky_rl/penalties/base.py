"""What every penalty is: a number that a pass's spikes cost, whose gradient joins that of whatever loss the features go into.

So hosts and classifiers need not know of it: their loss is a mean over a minibatch, and so is the penalty.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import Component


class Penalty(Component):
    """A term of the loss."""

    renamed = {"cost": "compute"}

    def __init__(self, options: Settings | None = None) -> None:
        self.options = options

    @abstractmethod
    def compute(self, rates: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:
        """The term, from the ``rates`` [N] of all layers' neurons: mean events per inner step, of graded ones their mean size.

        Args:
            rates: One tensor for each layer.
            fan_out: Synapses that one of its events reaches, on the mean, for each layer.
        """


def compute_rates(output: Tensor) -> Tensor:
    """Mean size [N] of what neurons send, an ``output`` [T, K, B, N]."""
    return output.abs().mean((0, 1, 2))


def add_penalty_gradient(features: Tensor, cost: Tensor) -> Tensor:
    """The ``features`` as they are; a backward pass through them goes through the ``cost`` as well."""
    return _Charged.apply(features, cost)  # type: ignore[return-value]


class _Charged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, cost: Tensor) -> Tensor:
        ctx.save_for_backward(cost)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.ones_like(ctx.saved_tensors[0])
