"""Memory for time: keep a layer's input, one bit per event, and run the layer again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spiky_rl.kernels import cpu_backend, operators

Run = Callable[..., tuple[Tensor, ...]]


def recomputed(
    run: Run, binary: bool, parameters: tuple[Tensor, ...], signal: Tensor, *rest: Tensor
) -> tuple[Tensor, ...]:
    """``run(signal, *rest)``, of which only the inputs are kept.

    Args:
        run: Also reads ``parameters``, which get their gradients.
        binary: The signal is 0 or 1 and kept as bits.
        parameters: What ``run`` is learned by.
        signal: First input, [..., C].
        rest: Its other inputs.
    """
    if torch.compiler.is_compiling():
        # the compiler's own way; what is kept are then numbers
        return checkpoint(run, signal, *rest, use_reentrant=False)  # type: ignore[return-value]
    return _Recomputed.apply(run, binary, len(parameters), signal, *rest, *parameters)  # type: ignore[return-value]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, binary: bool, learned: int, signal: Tensor, *others: Tensor) -> Any:
        ctx.run, ctx.binary, ctx.learned = run, binary, learned
        ctx.shape, ctx.dtype = signal.shape, signal.dtype
        ctx.save_for_backward(pack(signal) if binary else signal, *others)
        return run(signal, *others[: len(others) - learned])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        operators.refuse_second_derivative()
        kept, *others = ctx.saved_tensors
        signal = unpack(kept, ctx.shape, ctx.dtype) if ctx.binary else kept
        count = len(others) - ctx.learned
        inputs = [x.detach().requires_grad_() for x in (signal, *others[:count])]
        wanted = [*inputs, *others[count:]]
        needs = ctx.needs_input_grad[3:]
        inputs[0].requires_grad_(needs[0])
        with torch.enable_grad():
            outputs = ctx.run(*inputs)
        found = iter(
            torch.autograd.grad(
                outputs, [x for x, need in zip(wanted, needs, strict=True) if need], grads, allow_unused=True
            )
        )
        return None, None, None, *(next(found) if need else None for need in needs)


def pack(x: Tensor) -> Tensor:
    """Non-zero elements of x [..., C] as bits, [rows, words] of 64."""
    rows = x.reshape(-1, x.shape[-1])
    if module := _packs(x.device, x.dtype):
        return module.pack(rows)
    words = cpu_backend.words(rows.shape[1])
    padded = torch.nn.functional.pad(rows != 0, (0, words * 64 - rows.shape[1]))
    place = torch.arange(64, device=x.device)
    return (padded.view(-1, words, 64).long() << place).sum(-1)


def unpack(bits: Tensor, shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
    """The inverse of `pack`: 0 and 1, in the shape that was packed."""
    if module := _packs(bits.device, dtype):
        return module.unpack(bits, shape[-1]).view(shape)
    place = torch.arange(64, device=bits.device)
    return ((bits.unsqueeze(-1) >> place) & 1).flatten(1)[:, : shape[-1]].to(dtype).reshape(shape)


def _packs(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """The backend whose kernels pack bits there, if there is one."""
    module = operators.COMPILED.get(device.type)
    return module if module is not None and dtype == torch.float32 and module.available() is None else None
