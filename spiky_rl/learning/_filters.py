"""Functions that change gradients in the backward pass of a layer: filters in time, and other feedback paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, override

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter


class DoubleExponential(Neuron):
    """Double exponential filter of unit area: e1 <- a1 e1 + (1 - a1) x, e2 <- a2 e2 + (1 - a2) e1; its output is e2."""

    states = ("e1", "e2")

    class Options(Neuron.Options):
        tau_rise: float = parameter(5.0, "time constant of the rise", low=1e-3, unit="ms", transform="decay")
        tau_fall: float = parameter(10.0, "time constant of the fall", low=1e-3, unit="ms", transform="decay")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        e1 = p.decay_rise * s.e1 + (1.0 - p.decay_rise) * current
        e2 = p.decay_fall * s.e2 + (1.0 - p.decay_fall) * e1
        return e2, s.replace(e1=e1, e2=e2)


def smooth_gradient(output: Tensor, smooth: DoubleExponential, keep: Tensor | None, backend: str) -> Tensor:
    """Return ``output`` [T, K, B, N] unchanged; filter its gradient backwards in time with ``smooth``.

    The gradient at a time is then a weighted sum of the errors from this time to the end of the episode. ``keep`` [T, B] is 0 where an
    episode begins.
    """
    return _SmoothGradient.apply(output, smooth, keep, backend)  # type: ignore[return-value]


class _SmoothGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, smooth: DoubleExponential, keep: Tensor | None, backend: str
    ) -> Tensor:
        ctx.smooth, ctx.keep, ctx.backend = smooth, keep, backend
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        flipped, keep = grads[0].flip(0, 1), reverse_keep(ctx.keep)
        parameters = tuple(ctx.smooth.get_step_value(name) for name in ctx.smooth.params)
        steps = flipped.shape[1]
        filtered, _ = dispatch.unroll(
            ctx.backend, ctx.smooth, SPIKELESS, flipped, steps, None, parameters, keep
        )
        return filtered.flip(0, 1), None, None, None


def reverse_keep(keep: Tensor | None) -> Tensor | None:
    """Return ``keep`` [T, ...] for a pass over the steps in reverse order: 0 at the last step of an episode, where the pass enters it."""
    # keep[t + 1] is 0 if step t is the last of an episode; the pass begins at the last step of all, with states of zero
    return None if keep is None else torch.cat([torch.ones_like(keep[:1]), keep[1:].flip(0)])


def add_feedback_gradient(output: Tensor, signal: Tensor, feedback: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a layer's ``output`` [T, K, B, N] unchanged; its gradient also reaches the layer's input, through ``feedback``.

    In the backward pass, ``feedback`` maps the gradient of the output to the gradient of ``signal`` [T, K or 1, B, C], the input.
    """
    return _AddFeedback.apply(output, signal, feedback)  # type: ignore[return-value]


class _AddFeedback(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, signal: Tensor, feedback: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.feedback, ctx.constant = feedback, signal.shape[1] == 1
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        error = grads[0].sum(1, keepdim=True) if ctx.constant else grads[0]
        return grads[0], ctx.feedback(error), None


def backpropagate_current(layer: SpikingLayer, signal: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that maps the error at a layer's current to the error at its ``signal``, by the connection's own weights.

    With max pooling, the error passes only through the largest current of each block for this signal.
    """

    def backpropagate(error: Tensor) -> Tensor:
        with torch.enable_grad():
            x = signal.detach().requires_grad_()
            current = layer.connection(x, layer.backend, layer.binary)
            (errors,) = torch.autograd.grad(current, x, error)
        return errors

    return backpropagate
