"""The op vocabulary of a neuron's step on torch tensors.

A step may use ``+ - * /``, squares and cubes, comparison, and the functions of `spiky_rl.neurons.base.Ops`; each argument may be a
tensor or a number. Calling the step with `TorchOps` is the reference: autograd defines the correct gradient.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from spiky_rl.neurons.base import Neuron, Params, ReferenceOps, States
from spiky_rl.surrogates.base import Surrogate
from spiky_rl.surrogates.rectangle import Rectangle

type Number = Tensor | float
"""A value that a step computes with."""
type Step = Callable[[ReferenceOps, Tensor, States, Params], tuple[Tensor, tuple[Tensor, ...]]]
"""A neuron's step on tensors: output and new states."""


def _function(name: str) -> Any:
    """Return the function called ``name`` for tensors and numbers."""
    on_tensor, on_number = getattr(torch, name), getattr(math, name)
    return staticmethod(lambda x: on_tensor(x) if isinstance(x, Tensor) else on_number(x))


def get_reference_step(neuron: Neuron) -> Step:
    """Return the step of ``neuron``, typed for tensors."""
    return neuron.step  # type: ignore[return-value]


class TorchOps(ReferenceOps):
    """The op vocabulary on torch tensors and numbers.

    ``soft_spike`` is a debugging mode: it replaces the Heaviside step by the surrogate's primitive, so that the gradient equals
    finite differences of the forward pass and can be checked exactly.
    """

    def __init__(self, surrogate: Surrogate, slope: float | None = None, soft_spike: bool = False) -> None:
        self.surrogate = surrogate
        self.slope = surrogate.slope if slope is None else slope
        self.soft_spike = soft_spike

    atan, erf = torch.atan, torch.erf  # type: ignore[assignment]
    exp = _function("exp")
    tanh = _function("tanh")
    tan = _function("tan")
    sqrt = _function("sqrt")

    @staticmethod
    def abs(x: Number) -> Number:
        return torch.abs(x) if isinstance(x, Tensor) else builtins.abs(x)

    @staticmethod
    def max(x: Number, y: Number) -> Number:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.maximum(x, y)
        if isinstance(y, Tensor):
            x, y = y, x
        return x.clamp(min=y) if isinstance(x, Tensor) else builtins.max(x, y)

    @staticmethod
    def min(x: Number, y: Number) -> Number:
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return torch.minimum(x, y)
        if isinstance(y, Tensor):
            x, y = y, x
        return x.clamp(max=y) if isinstance(x, Tensor) else builtins.min(x, y)

    @staticmethod
    def where(condition: Tensor | bool, x: Number, y: Number) -> Number:
        return torch.where(condition, x, y) if isinstance(condition, Tensor) else (x if condition else y)

    @staticmethod
    def detach(x: Number) -> Number:
        return x.detach() if isinstance(x, Tensor) else x

    @staticmethod
    def heaviside(x: Number) -> Number:
        return (x >= 0).to(x.dtype) if isinstance(x, Tensor) else float(x >= 0)

    def spike(self, x: Tensor) -> Tensor:
        if _has_tangent(x):
            return _TangentSpike.apply(x, self)  # type: ignore[return-value]
        if x.requires_grad and torch.is_grad_enabled():
            return _Spike.apply(x, self)  # type: ignore[return-value]
        return self.forward_spike(x)

    def forward_spike(self, x: Tensor) -> Tensor:
        """Return the spike's value at ``x``, without a gradient."""
        if self.soft_spike:
            return self.surrogate.primitive(self, x, self.slope)  # type: ignore[return-value]
        return (x >= 0).to(x.dtype)


def _has_tangent(x: Tensor) -> bool:
    """Return whether ``x`` carries a derivative of forward mode, as under `torch.func.jvp`."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(x).tangent is not None


class _Spike(torch.autograd.Function):
    """Heaviside forward, surrogate backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, ops: TorchOps) -> Tensor:
        return ops.forward_spike(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, TorchOps], output: Tensor) -> None:
        x, ctx.ops = inputs
        ctx.slope = ctx.ops.slope  # a schedule may change it before the backward pass
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad[0] * ctx.ops.surrogate.derivative(ctx.ops, x, ctx.slope), None


class _TangentSpike(_Spike):
    """A spike with the surrogate in its derivative of forward mode, too, which torch.compile does not trace."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, TorchOps], output: Tensor) -> None:
        _Spike.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return tangents[0] * ctx.ops.surrogate.derivative(ctx.ops, x, ctx.slope)


SPIKELESS = TorchOps(Rectangle.from_options())
"""The vocabulary for neurons that never spike; its surrogate is not used."""
