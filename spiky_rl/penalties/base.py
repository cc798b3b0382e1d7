"""Base class of penalties: a loss term computed from the activity of a forward pass.

The network attaches the term to its features: a backward pass through them adds its gradient, so learners and classifiers need no
code for it. Like their loss, the term is a mean over a minibatch.
"""

# pylint: disable=unused-argument  # defaults ignore what penalties may need

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import Component


class Penalty(Component):
    """Loss term on activity."""

    renamed = {"cost": "compute"}

    def __init__(self, options: Settings | None = None) -> None:
        self.options = options

    @abstractmethod
    def compute(self, rates: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:
        """Return the loss term, a scalar.

        Args:
            rates: Per layer, the rates [N] of `compute_rates`.
            fan_out: Per layer, the mean number of synapses that an event reaches.
        """

    def compute_factors(self, widths: Sequence[int], fan_out: Sequence[float]) -> list[float]:
        """Return a factor per layer for `compute_gradient`, from the layers' ``widths`` and ``fan_out``."""
        return [1.0] * len(widths)

    def compute_gradient(
        self, rates: Tensor, factors: Tensor, widths: Sequence[int], fan_out: Sequence[float]
    ) -> Tensor:
        """Return the gradient [M] of `compute` for the ``rates`` [M] of the neurons of all layers, in order.

        Autograd computes it, unless a penalty has a closed form, which costs a GPU fewer launches.

        Args:
            rates: [M].
            factors: [M]; for each neuron its layer's of `compute_factors`.
            widths: Number of neurons of each layer.
            fan_out: As for `compute`.
        """
        with torch.enable_grad():
            own = rates.detach().requires_grad_()
            cost = self.compute(own.split(list(widths)), fan_out)
        if not cost.requires_grad:
            return torch.zeros_like(rates)
        return torch.autograd.grad(cost, own)[0]


def compute_rates(output: Tensor) -> Tensor:
    """Return the mean absolute ``output`` [T, K, B, N] of every neuron, [N]; the firing rate if the output consists of spikes."""
    return output.abs().mean((0, 1, 2))


def add_penalty_gradient(features: Tensor, cost: Tensor) -> Tensor:
    """Return ``features`` unchanged; a backward pass through them also backpropagates ``cost``, as if it were added to the loss."""
    return _AddGradient.apply(features, cost)  # type: ignore[return-value]


class _AddGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, cost: Tensor) -> Tensor:
        ctx.save_for_backward(cost)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.ones_like(ctx.saved_tensors[0])
