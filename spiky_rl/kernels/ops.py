"""The op vocabulary of a neuron's step, and its torch twin.

A step may use ``+ - * /``, powers, comparison, and the functions of `TorchOps`; each of its arguments may be a tensor or
a number. Calling the step with `TorchOps` is the reference: autograd is the definition of a right gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spiky_rl.surrogates.base import Surrogate


class TorchOps:
    """The vocabulary on torch tensors.

    ``soft_spike`` replaces the Heaviside step by the surrogate's primitive, so that the coded backward equals finite
    differences of the forward: the debugging mode in which a gradient can be checked exactly.
    """

    exp, tanh, tan, sqrt, abs = torch.exp, torch.tanh, torch.tan, torch.sqrt, torch.abs
    atan, erf = torch.atan, torch.erf

    def __init__(self, surrogate: Surrogate, slope: float | None = None, soft_spike: bool = False) -> None:
        self.surrogate = surrogate
        self.slope = surrogate.slope if slope is None else slope
        self.soft_spike = soft_spike

    @staticmethod
    def max(x: Tensor, y: Tensor | float) -> Tensor:
        """Elementwise maximum; y may be a number."""
        return torch.maximum(x, y) if isinstance(y, Tensor) else x.clamp(min=y)

    @staticmethod
    def min(x: Tensor, y: Tensor | float) -> Tensor:
        """Elementwise minimum; y may be a number."""
        return torch.minimum(x, y) if isinstance(y, Tensor) else x.clamp(max=y)

    @staticmethod
    def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
        """x where the condition holds, y elsewhere."""
        return torch.where(condition, x, y)

    @staticmethod
    def detach(x: Tensor) -> Tensor:
        """x, as a constant for the gradient."""
        return x.detach()

    def spike(self, x: Tensor) -> Tensor:
        """1 where x >= 0, else 0; the gradient is the surrogate's derivative at x."""
        if x.requires_grad and torch.is_grad_enabled():
            return _Spike.apply(x, self)  # type: ignore[return-value]
        return self.forward_spike(x)

    def forward_spike(self, x: Tensor) -> Tensor:
        """The spike's value alone."""
        return self.surrogate.primitive(self, x, self.slope) if self.soft_spike else (x >= 0).to(x.dtype)


class _Spike(torch.autograd.Function):
    """Heaviside forward, surrogate backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ops: TorchOps) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = ops.surrogate.derivative, ops, ops.slope
        return ops.forward_spike(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        derivative: Callable[..., Tensor]
        (x,) = ctx.saved_tensors
        derivative, ops, slope = ctx.derivative
        return grad[0] * derivative(ops, x, slope), None
