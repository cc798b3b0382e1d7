"""``spiky_rl::convolution``: an event-driven convolution with max pooling, as a torch operator.

The forward pass visits only the input's events. The backward pass visits only the largest current of each pooled block, because
only that one has a gradient.
"""

# pylint: disable=unused-argument  # an operator's gradient and shapes are functions of all of its arguments

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch, operators
from spiky_rl.kernels.operators import LIBRARY
from spiky_rl.kernels.programs import count_words

LIBRARY.define(
    "convolution(Tensor x, Tensor weight, Tensor bias, int[] geometry, bool binary, bool bfloat16) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "convolution_backward(Tensor saved, Tensor place, Tensor weight, Tensor grad, int[] geometry, bool binary, bool bfloat16,"
    " bool inputs) -> (Tensor, Tensor, Tensor)"
)
LARGEST_POOL = 16
"""Largest side of a pooled block: the position of its maximum is stored as one byte."""


def count_blocks(shape: Sequence[int]) -> int:
    """Return the number of pooled blocks per channel; ``shape``: channels, height, width, outputs, kernel, stride, padding, pool."""
    _, height, width, _, kernel, stride, padding, pool = shape
    rows, columns = (((side + 2 * padding - kernel) // stride + 1) // pool for side in (height, width))
    return rows * columns


def adds_by_columns(shape: Sequence[int]) -> bool:
    """Return whether the kernel adds a current's inputs by columns, rows, channels (see `gather_of` in C), not by channels, rows, columns.

    ``shape`` is that of `count_blocks`.
    """
    channels, _, width, _, kernel, stride, padding, pool = shape
    line = ((width + 2 * padding - kernel) // stride + 1) // pool * pool
    return stride == 1 and channels >= 8 and line >= 5 and kernel in (3, 5)


def _check(x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int]) -> None:
    """Raise `ValueError` if the kernel would read out of bounds."""
    channels, height, width, outputs, kernel, *_ = shape
    given = (x.shape[-1], [*weight.shape], [*bias.shape])
    expected = (channels * height * width, [outputs, channels, kernel, kernel], [outputs])
    if given != expected or not x.dtype == weight.dtype == bias.dtype:
        raise ValueError(
            f"signal, weight and bias for maps of {channels} x {height} x {width}: {given} given, in {x.dtype},"
            f" {weight.dtype} and {bias.dtype}; expected: {expected}, in one type"
        )


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int], binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, shape)
    y, place, bits = _forward_fake(x, weight, bias, shape, binary, bfloat16)
    kernels, rows = dispatch.get_device_backend(x.device.type), x.reshape(-1, x.shape[-1])
    kernels.convolution_forward(rows, bits if binary else None, weight, bias, y, place, shape)
    return y, place, bits


def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int], binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, count = x.numel() // x.shape[-1], count_blocks(shape)
    packed = (rows, count_words(x.shape[-1])) if binary else (0,)
    return (
        x.new_empty(*x.shape[:-1], weight.shape[0] * count),
        x.new_empty(rows, count, weight.shape[0], dtype=torch.uint8),
        x.new_empty(packed, dtype=torch.int64),
    )


def _backward(
    saved: Tensor,
    place: Tensor,
    weight: Tensor,
    grad: Tensor,
    shape: Sequence[int],
    binary: bool,
    bfloat16: bool,
    inputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = _backward_fake(saved, place, weight, grad, shape, binary, bfloat16, inputs)
    kernels = dispatch.get_device_backend(grad.device.type)
    kernels.convolution_backward(saved, place, weight, grad, gradients, shape, bfloat16)
    return gradients


def _backward_fake(
    saved: Tensor,
    place: Tensor,
    weight: Tensor,
    grad: Tensor,
    shape: Sequence[int],
    binary: bool,
    bfloat16: bool,
    inputs: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    channels, height, width, *_ = shape
    grad_x = grad.new_empty((*grad.shape[:-1], channels * height * width) if inputs else (0,))
    return grad_x, weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, ctx.geometry, ctx.binary, ctx.bfloat16 = inputs
    ctx.save_for_backward(output[2] if ctx.binary else x, output[1], weight)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None, None
    wanted = ctx.needs_input_grad[:3]
    grads = torch.ops.spiky_rl.convolution_backward(
        *ctx.saved_tensors, grad, ctx.geometry, ctx.binary, ctx.bfloat16, wanted[0]
    )
    return *(x if keep else None for x, keep in zip(grads, wanted, strict=True)), None, None, None


for name, run, fake in (
    ("convolution", _forward, _forward_fake),
    ("convolution_backward", _backward, _backward_fake),
):
    LIBRARY.impl(name, run, "CPU")
    torch.library.register_fake(f"spiky_rl::{name}", fake, lib=LIBRARY)
torch.library.register_autograd("spiky_rl::convolution", _gradient, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd("spiky_rl::convolution_backward", operators.no_second_derivative, lib=LIBRARY)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int], binary: bool, bfloat16: bool
) -> Tensor:
    """Return the pooled currents [..., C' H' W'] of a signal, flat.

    Args:
        x: The signal [..., C H W].
        weight: [C', C, kernel, kernel].
        bias: [C'].
        shape: The fields of ``Sizes`` in `convolution.h`, as for `count_blocks`.
        binary: Whether x is 0 or 1.
        bfloat16: Whether gradients may be computed in bfloat16.
    """
    if operators.needs_operator(x, weight, bias):
        return torch.ops.spiky_rl.convolution(x, weight, bias, shape, binary, bfloat16)[0]
    _check(x, weight, bias, shape)
    y = x.new_empty(*x.shape[:-1], shape[3] * count_blocks(shape))
    rows = x.reshape(-1, x.shape[-1])
    dispatch.get_device_backend(x.device.type).convolution_forward(rows, None, weight, bias, y, None, shape)
    return y
