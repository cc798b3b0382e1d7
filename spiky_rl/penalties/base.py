"""Base class of penalties: a loss term computed from the activity of a forward pass.

The network attaches the term to its features: a backward pass through the features adds the term's gradient, so learners and
classifiers need no code for it. Like a loss, the term is a mean over a minibatch.
"""

# pylint: disable=unused-argument  # the base class's methods ignore arguments that some penalties need

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

    raises_rates: bool = True
    """Whether the gradient may raise a rate, also that of a silent neuron. Then layers run one by one, because a stack of layers adds
    the gradient at events only."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "compute" in vars(cls) and "compute_gradient" not in vars(cls):
            # a class with a term of its own must not inherit the closed form of another one
            cls.compute_gradient = Penalty.compute_gradient

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

        Autograd computes it here. A penalty may override this with a closed form, which costs a GPU fewer launches; a subclass of it
        that overrides `compute` alone has the gradient by autograd again.

        Args:
            rates: [M].
            factors: [M]: for each neuron the factor of its layer from `compute_factors`.
            widths: Number of neurons of each layer.
            fan_out: As for `compute`.
        """
        with torch.enable_grad():
            leaf = rates.detach().requires_grad_()
            cost = self.compute(leaf.split(list(widths)), fan_out)
        if not cost.requires_grad:  # a constant cost
            return torch.zeros_like(rates)
        return torch.autograd.grad(cost, leaf)[0]


def expand_factors(penalty: Penalty, widths: Sequence[int], fan_out: Sequence[float]) -> Tensor:
    """Return the factor [M] of each neuron for `Penalty.compute_gradient`."""
    factors = torch.tensor(penalty.compute_factors(widths, fan_out))
    return factors.repeat_interleave(torch.tensor(widths))


def compute_rates(output: Tensor) -> Tensor:
    """Return the mean absolute ``output`` [T, K, B, N] of every neuron, [N]; the firing rate if the output consists of spikes.

    At z = 0 the derivative of |z| is 1 where descent would raise the rate, so that a silent neuron can begin to fire, and else 0.
    """
    return _MeanActivity.apply(output)  # type: ignore[return-value]


class _MeanActivity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        ctx.save_for_backward(output)
        return output.abs().mean((0, 1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        share = grads[0] / output.shape[:-1].numel()
        return share * torch.where((output == 0.0) & (share < 0.0), 1.0, output.sign())


def add_penalty_gradient(features: Tensor, cost: Tensor) -> Tensor:
    """Return ``features`` unchanged; a backward pass through them also backpropagates ``cost``, as if it were added to the loss.

    The gradient of the cost is 1, whatever the gradient of the features.
    """
    return _AddGradient.apply(features, cost)  # type: ignore[return-value]


class _AddGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, cost: Tensor) -> Tensor:
        ctx.save_for_backward(cost)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.ones_like(ctx.saved_tensors[0])
