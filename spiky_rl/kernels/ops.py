"""The op vocabulary of a neuron's step, and its torch twin.

A step may use ``+ - * /``, squares and cubes, comparison, and the functions of `TorchOps`; each of its arguments may be a tensor or
a number. Calling the step with `TorchOps` is the reference: autograd is the definition of a right gradient.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spiky_rl.surrogates.base import Surrogate


def _function(name: str) -> Any:
    """A function of a tensor or of a number."""
    on_tensor, on_number = getattr(torch, name), getattr(math, name)
    return staticmethod(lambda x: on_tensor(x) if isinstance(x, Tensor) else on_number(x))


class TorchOps:
    """The vocabulary on torch tensors.

    ``soft_spike`` replaces the Heaviside step by the surrogate's primitive, so that the coded backward equals finite
    differences of the forward: the debugging mode in which a gradient can be checked exactly.
    """

    atan, erf = torch.atan, torch.erf

    def __init__(self, surrogate: Surrogate, slope: float | None = None, soft_spike: bool = False) -> None:
        self.surrogate = surrogate
        self.slope = surrogate.slope if slope is None else slope
        self.soft_spike = soft_spike

    exp = _function("exp")
    tanh = _function("tanh")
    tan = _function("tan")
    sqrt = _function("sqrt")

    @staticmethod
    def abs(x: Any) -> Any:
        """|x|; the derivative at 0 is 0."""
        return torch.abs(x) if isinstance(x, Tensor) else builtins.abs(x)

    @staticmethod
    def max(x: Any, y: Any) -> Any:
        """Elementwise maximum; where two tensors are equal, each takes half of the gradient."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.maximum(x, y)
        if isinstance(y, Tensor):
            x, y = y, x
        return x.clamp(min=y) if isinstance(x, Tensor) else builtins.max(x, y)

    @staticmethod
    def min(x: Any, y: Any) -> Any:
        """Elementwise minimum; where two tensors are equal, each takes half of the gradient."""
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.minimum(x, y)
        if isinstance(y, Tensor):
            x, y = y, x
        return x.clamp(max=y) if isinstance(x, Tensor) else builtins.min(x, y)

    @staticmethod
    def where(condition: Any, x: Any, y: Any) -> Any:
        """x where the condition holds, y elsewhere."""
        return torch.where(condition, x, y) if isinstance(condition, Tensor) else (x if condition else y)

    @staticmethod
    def detach(x: Any) -> Any:
        """x, as a constant for the gradient."""
        return x.detach() if isinstance(x, Tensor) else x

    @staticmethod
    def heaviside(x: Any) -> Any:
        """1 where x >= 0, else 0, as a constant for the gradient."""
        return (x >= 0).to(x.dtype) if isinstance(x, Tensor) else float(x >= 0)

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
