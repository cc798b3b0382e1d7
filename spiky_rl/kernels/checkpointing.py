"""Activation checkpointing: keep a layer's input, one bit per event, and run the layer again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spiky_rl.kernels import dispatch, operators
from spiky_rl.kernels.backends.base import Backend

Run = Callable[..., tuple[Tensor, ...]]


def run_with_recomputation(
    run: Run,
    backend: str,
    binary: bool,
    list_parameters: Callable[[], Iterable[Tensor]],
    signal: Tensor,
    *rest: Tensor,
) -> tuple[Tensor, ...]:
    """Return ``run(signal, *rest)`` and keep only its inputs for the backward pass.

    Args:
        run: The function; it also reads the tensors of ``list_parameters``.
        backend: Name of the backend that packs the signal.
        binary: Whether the signal is 0 or 1, and so is kept as bits.
        list_parameters: Returns the learned tensors that receive gradients. The backward pass raises RuntimeError if these are others
            than in the forward pass.
        signal: First input, [..., C].
        rest: Further inputs.
    """
    if dispatch.is_traced():
        # a tracer can only follow torch's own checkpointing, which keeps floats
        return checkpoint(run, signal, *rest, use_reentrant=False)  # type: ignore[return-value]
    packs = dispatch.choose_backend(backend, signal) if binary else None
    learned = tuple(list_parameters())
    return _Recomputation.apply(run, packs, list_parameters, learned, signal, *rest, *learned)  # type: ignore[return-value]


class _Recomputation(torch.autograd.Function):
    """``run(signal, *others)`` that saves only its inputs; the last of the others are the ``learned`` parameters, which ``run`` reads."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Run,
        packs: Backend | None,
        list_parameters: Callable[[], Iterable[Tensor]],
        learned: tuple[Tensor, ...],
        signal: Tensor,
        *others: Tensor,
    ) -> Any:
        ctx.run, ctx.packs, ctx.list_parameters, ctx.learned = run, packs, list_parameters, learned
        ctx.shape, ctx.dtype = signal.shape, signal.dtype
        saved = signal if packs is None else packs.pack(signal.reshape(-1, signal.shape[-1]))
        ctx.save_for_backward(saved, *others)
        return run(signal, *others[: len(others) - len(learned)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        operators.refuse_second_derivative()
        if [*map(id, ctx.learned)] != [*map(id, ctx.list_parameters())]:
            raise RuntimeError(
                "recompute: the layer's parameters were replaced after the forward pass, as torch.func.functional_call does; use"
                " recompute: false"
            )
        saved, *others = ctx.saved_tensors
        signal = saved
        if ctx.packs is not None:
            signal = ctx.packs.unpack(saved, ctx.shape[-1]).view(ctx.shape).to(ctx.dtype)
        count = len(others) - len(ctx.learned)
        inputs = [x.detach().requires_grad_() for x in (signal, *others[:count])]
        wanted = [*inputs, *others[count:]]
        needs = ctx.needs_input_grad[4:]
        inputs[0].requires_grad_(needs[0])
        with torch.enable_grad():
            outputs = ctx.run(*inputs)
        # a rule may cut the gradient of an output, as e-prop does of the spikes that a recurrent layer carries on
        learned = [(y, grad) for y, grad in zip(outputs, grads, strict=True) if y.requires_grad]
        gradients = iter(
            torch.autograd.grad(
                [y for y, _ in learned],
                [x for x, need in zip(wanted, needs, strict=True) if need],
                [grad for _, grad in learned],
                allow_unused=True,
            )
        )
        return None, None, None, None, *(next(gradients) if need else None for need in needs)
