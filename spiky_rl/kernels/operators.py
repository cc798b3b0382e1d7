"""The kernels as torch operators: autograd, torch.compile and torch.export see them whole.

``spiky_rl::unroll`` runs a neuron over time, ``spiky_rl::linear`` is a linear layer that keeps its input's events. Each is
called directly, without an operator around it, where no gradient is wanted.
"""

# pylint: disable=unused-argument  # an operator's gradient and shapes are functions of all of its arguments

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import cpu_backend, programs
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

LIBRARY = torch.library.Library("spiky_rl", "DEF")
LIBRARY.define(
    "unroll(Tensor current, Tensor? state, Tensor? params, Tensor? keep, float[] numbers, int steps, str key, bool last)"
    " -> (Tensor, Tensor)"
)
LIBRARY.define(
    "unroll_backward(Tensor current, Tensor? state, Tensor? params, Tensor? keep, float[] numbers, int steps, str key,"
    " Tensor? grad_output, Tensor? grad_last) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "linear(Tensor x, Tensor weight, Tensor? bias, bool binary, bool bfloat16) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "linear_backward(Tensor saved, Tensor weight, Tensor grad, bool binary, bool bfloat16, bool bias, bool inputs)"
    " -> (Tensor, Tensor, Tensor)"
)


BACKENDS = {
    path.stem.removesuffix("_backend"): importlib.import_module(f"spiky_rl.kernels.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*_backend.py"))
}
"""All backends. Each says whether it is ``available``; compiled ones have a ``DEVICE``, ``forward`` and ``backward``."""
COMPILED = {module.DEVICE: module for module in BACKENDS.values() if hasattr(module, "DEVICE")}
"""By the kind of device whose tensors they take."""


NO_SECOND_DERIVATIVE = "kernels have no second derivative; backend: torch has, without recompute"


def name_of(module: ModuleType) -> str:
    """The name of a backend."""
    return next(name for name, known in BACKENDS.items() if known is module)


def _unroll(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    numbers: Sequence[float],
    steps: int,
    key: str,
    last: bool,
) -> tuple[Tensor, Tensor]:
    output, final, _ = _forward(current, state, params, keep, numbers, steps, key, last, False)
    return output, final


def _forward(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    numbers: Sequence[float],
    steps: int,
    key: str,
    last: bool,
    trace: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    key, uniforms = programs.found(key, tuple(numbers))
    T, _, B, N = current.shape
    fit(T, B, N, state, params, keep, programs.KNOWN[key].states)
    return COMPILED[current.device.type].forward(
        key, current, state, params, keep, uniforms, steps, last, trace
    )


def _unroll_fake(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    numbers: Sequence[float],
    steps: int,
    key: str,
    last: bool,
) -> tuple[Tensor, Tensor]:
    T, _, B, N = current.shape
    states = programs.states(key) if last else 0
    return current.new_empty(T, steps, B, N), current.new_empty((states, B, N) if last else (0,))


def _unroll_backward(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    numbers: Sequence[float],
    steps: int,
    key: str,
    grad_output: Tensor | None,
    grad_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    key, uniforms = programs.found(key, tuple(numbers))
    # in one piece, because the gradients lie in memory as their tensors do
    state, params = (None if x is None else x.contiguous() for x in (state, params))
    return COMPILED[current.device.type].backward(
        key, current, state, params, keep, uniforms, steps, grad_output, grad_last
    )


def _unroll_backward_fake(
    current: Tensor, state: Tensor | None, params: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    grads = (current.new_empty(0 if x is None else x.shape) for x in (current, state, params))
    return next(grads), next(grads), next(grads)


def _save_unroll(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    current, state, params, keep, numbers, steps, key, _ = inputs
    ctx.save_for_backward(current, state, params, keep)
    ctx.numbers, ctx.steps, ctx.key = numbers, steps, key
    ctx.set_materialize_grads(False)


def _unroll_gradient(ctx: Any, grad_output: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
    current, state, params, keep = ctx.saved_tensors
    grads = torch.ops.spiky_rl.unroll_backward(
        *(current, state, params, keep, ctx.numbers, ctx.steps, ctx.key, grad_output, grad_last)
    )
    needed = [
        x if x.numel() or wanted is not None else None
        for x, wanted in zip(grads, (current, state, params), strict=True)
    ]
    return *needed, None, None, None, None, None


def fit(
    T: int,
    B: int,
    N: int,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    states: int,
) -> None:
    """Raise `ValueError` where a kernel would read beyond what it is given."""
    if state is not None and state.shape != (states, B, N):
        raise ValueError(f"states of shape {[*state.shape]} do not fit: {[states, B, N]} is wanted")
    if params is not None and params.shape[1:] != (N,):
        raise ValueError(f"parameters of shape {[*params.shape]} do not fit {N} neurons")
    if keep is not None and keep.shape != (T, B):
        raise ValueError(f"keep of shape {[*keep.shape]} does not fit: {[T, B]} is wanted")


def _fit_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise `ValueError` for what does not fit together."""
    biased = bias is None or (bias.dtype == weight.dtype and bias.shape == weight.shape[:1])
    if x.dtype != weight.dtype or x.shape[-1:] != weight.shape[1:] or not biased:
        found = [f"{[*t.shape]} in {t.dtype}" for t in (x, weight, bias) if t is not None]
        raise ValueError(f"signal, weight and bias do not fit together: {', '.join(found)}")


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    _fit_linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    bits = rows.new_empty(
        (rows.shape[0], cpu_backend.words(rows.shape[1])) if binary else (0,), dtype=torch.int64
    )
    module = COMPILED[x.device.type]
    y = module.linear(rows, bits if binary else None, weight, bias, binary)
    return y.view(*x.shape[:-1], weight.shape[0]), bits


def _linear_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    bits = x.new_empty((rows, cpu_backend.words(x.shape[-1])) if binary else (0,), dtype=torch.int64)
    return x.new_empty(*x.shape[:-1], weight.shape[0]), bits


def _linear_backward(
    saved: Tensor, weight: Tensor, grad: Tensor, binary: bool, bfloat16: bool, bias: bool, inputs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_rows, grad_x = grad.reshape(-1, grad.shape[-1]), grad.new_empty(0)
    device = grad.device.type
    with torch.autocast(device, enabled=False):  # the forward is exact under it, so its gradient is
        if binary:
            gradient = COMPILED[device].linear_gradient
            grad_weight, grad_bias = gradient(saved, grad_rows, weight.shape[1], bias)
        else:
            grad_weight = (saved.reshape(-1, saved.shape[-1]).t() @ grad_rows).t()
            grad_bias = grad_rows.sum(0) if bias else grad.new_empty(0)
        if inputs and bfloat16:
            grad_x = (grad_rows.bfloat16() @ weight.bfloat16()).float()
        elif inputs:
            grad_x = grad_rows @ weight
    return grad_x.view(*grad.shape[:-1], weight.shape[1]) if inputs else grad_x, grad_weight, grad_bias


def _linear_backward_fake(
    saved: Tensor, weight: Tensor, grad: Tensor, binary: bool, bfloat16: bool, bias: bool, inputs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = grad.new_empty((*grad.shape[:-1], weight.shape[1]) if inputs else (0,))
    grad_weight = grad.new_empty(weight.shape[1], weight.shape[0]).t()
    return grad_x, grad_weight, grad.new_empty(weight.shape[0] if bias else 0)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, ctx.binary, ctx.bfloat16 = inputs
    ctx.save_for_backward(output[1] if ctx.binary else x, weight)
    ctx.bias = bias is not None
    ctx.set_materialize_grads(False)


def _linear_gradient(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None, None
    saved, weight = ctx.saved_tensors
    grads = torch.ops.spiky_rl.linear_backward(
        *(saved, weight, grad, ctx.binary, ctx.bfloat16, ctx.bias, ctx.needs_input_grad[0])
    )
    wanted = (ctx.needs_input_grad[0], True, ctx.bias)
    return *(x if keep else None for x, keep in zip(grads, wanted, strict=True)), None, None


def refuse_second_derivative(*_: Any) -> None:
    """Raise `RuntimeError` within a backward pass that is itself to be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(NO_SECOND_DERIVATIVE)


def no_second_derivative(*_: Any) -> Any:
    """The gradient of an operator that is itself a gradient."""
    raise RuntimeError(NO_SECOND_DERIVATIVE)


for place in map(str.upper, COMPILED):
    LIBRARY.impl("unroll", _unroll, place)
    LIBRARY.impl("unroll_backward", _unroll_backward, place)
    LIBRARY.impl("linear", _linear, place)
    LIBRARY.impl("linear_backward", _linear_backward, place)
for name, fake in {
    "unroll": _unroll_fake,
    "unroll_backward": _unroll_backward_fake,
    "linear": _linear_fake,
    "linear_backward": _linear_backward_fake,
}.items():
    torch.library.register_fake(f"spiky_rl::{name}", fake, lib=LIBRARY)
torch.library.register_autograd("spiky_rl::unroll", _unroll_gradient, setup_context=_save_unroll, lib=LIBRARY)
torch.library.register_autograd("spiky_rl::linear", _linear_gradient, setup_context=_save_linear, lib=LIBRARY)
for name in ("unroll_backward", "linear_backward"):
    torch.library.register_autograd(f"spiky_rl::{name}", no_second_derivative, lib=LIBRARY)


def unroll(
    module: ModuleType,
    neuron: Neuron,
    ops: TorchOps,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None = None,
    trace: list[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `torch_backend.unroll`, by the kernels of a compiled backend.

    Raises `RegistryError` for what they do not do: another device or type, smooth spikes.
    """
    refuse_unfit(module, ops, current)
    call = programs.call(neuron, ops, params, current.shape[-1])
    stacked = None if state is None else torch.stack(state)
    arguments = (current, stacked, call.params, keep, call.numbers, steps)
    if as_operator(current, stacked, call.params):
        output, last = torch.ops.spiky_rl.unroll(*arguments, call.key, state is not None)
        if trace is not None:  # which the operator does not give
            with torch.no_grad():
                trace += _forward(*arguments, call.key, False, True)[2].flatten(0, 1).unbind(0)
    elif trace is not None:
        output, last, potentials = _forward(*arguments, call.key, state is not None, True)
        trace += potentials.flatten(0, 1).unbind(0)
    else:
        output, last = _unroll(*arguments, call.key, state is not None)
    return output, () if state is None else tuple(last.unbind(0))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool) -> Tensor:
    """A linear layer by a compiled backend: x [..., C] -> [..., N]; ``binary``: x is 0 or 1."""
    if as_operator(x, weight, bias):
        return torch.ops.spiky_rl.linear(x, weight, bias, binary, bfloat16)[0]
    _fit_linear(x, weight, bias)
    y = COMPILED[x.device.type].linear(x.reshape(-1, x.shape[-1]), None, weight, bias, binary)
    return y.view(*x.shape[:-1], weight.shape[0])


def as_operator(*tensors: Tensor | None) -> bool:
    """Whether somebody has to see the call: autograd, or a compiler."""
    learned = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return learned or torch.compiler.is_compiling()


def refuse_unfit(module: ModuleType, ops: TorchOps, x: Tensor) -> None:
    """Raise `RegistryError` for what the kernels of a backend cannot take."""
    reason = None
    if x.device.type != module.DEVICE:
        reason = f"computes on {module.DEVICE}, the tensor lies on {x.device.type}"
    elif x.dtype != torch.float32:
        reason = f"computes in float32, not in {x.dtype}"
    elif ops.soft_spike:
        reason = "has no smooth spikes"
    if reason:
        raise RegistryError(f"backend {name_of(module)!r} {reason}; backend: torch does")
