"""The kernels as torch operators, so that autograd, torch.compile and torch.export treat each as one operation.

``spiky_rl::unroll`` runs neurons over time, ``spiky_rl::recurrent`` runs neurons with a recurrent loop, and ``spiky_rl::linear`` is a
linear layer that keeps its input's events. Without gradients and tracing the kernels are called directly.
"""

# pylint: disable=unused-argument  # an operator's gradient and shapes are functions of all of its arguments

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch, programs
from spiky_rl.kernels.launch import KernelLaunch, NeuronRun, RecurrentFeedback, RecurrentLaunch
from spiky_rl.kernels.programs import count_words

LIBRARY = torch.library.Library("spiky_rl", "DEF")
DISPATCH_KEYS = ("CPU", "CUDA")
"""Torch's dispatch keys; each runs the kernels of the backend for that device."""
NO_SECOND_DERIVATIVE = "kernels have no second derivative; backend: torch has, without recompute"

_TENSORS = "Tensor current, Tensor? state, Tensor? params, Tensor? keep"
_NUMBERS = "float[] numbers, int steps, str key"
_UNROLL = f"{_TENSORS}, {_NUMBERS}"
_RECURRENT = f"{_TENSORS}, Tensor synapses, {_NUMBERS}, int delays, float? decay, bool binary, bool cut"
_GRADIENTS = "Tensor? grad_output, Tensor? grad_last"
LIBRARY.define(f"unroll({_UNROLL}, bool last) -> (Tensor, Tensor)")
LIBRARY.define(f"unroll_backward({_UNROLL}, {_GRADIENTS}) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(f"recurrent({_RECURRENT}, bool last) -> (Tensor, Tensor)")
LIBRARY.define(f"recurrent_backward({_RECURRENT}, {_GRADIENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "linear(Tensor x, Tensor weight, Tensor? bias, bool binary, bool bfloat16) -> (Tensor, Tensor)"
)
LIBRARY.define(
    "linear_backward(Tensor saved, Tensor weight, Tensor grad, bool binary, bool bfloat16, bool bias, bool inputs)"
    " -> (Tensor, Tensor, Tensor)"
)


def _split_arguments(arguments: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the tensors among the ``arguments`` of an operator, and the other arguments.

    The tensors are current, state, params and keep, and with a recurrent loop synapses.
    """
    count = 5 if isinstance(arguments[4], Tensor) else 4
    return arguments[:count], arguments[count:]


def _launch(arguments: Sequence[Any]) -> KernelLaunch:
    """Return the operators' arguments as a launch. Raises `ValueError` if a kernel would read out of bounds."""
    tensors, others = _split_arguments(arguments)
    current, state, params, keep = tensors[:4]
    synapses = tensors[4] if len(tensors) > 4 else None
    numbers, steps, key, *loop = others
    key, uniforms = programs.resolve_key(key, tuple(numbers))
    T, _, B, N = current.shape
    given, states = (key, current, state, params, keep, uniforms, steps), programs.PROGRAMS[key].states
    if synapses is None:
        check_shapes(T, B, N, state, params, keep, states, current.device)
        return KernelLaunch(*given)
    delays, decay, binary, cut = loop
    feedback = RecurrentFeedback(delays, binary, decay, cut)
    check_shapes(T, B, N, state, params, keep, states + feedback.states, current.device)
    check_device("synapses", synapses, current.device)
    if synapses.shape != (delays * N, N):
        raise ValueError(f"synapses: shape {[*synapses.shape]} given; expected: {[delays * N, N]}")
    return RecurrentLaunch(*given, feedback, synapses)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, last, trace = arguments
    launch, kernels = _launch(given), dispatch.get_device_backend(given[0].device.type)
    if isinstance(launch, RecurrentLaunch):
        return kernels.recurrent_forward(launch, last, trace)
    return kernels.forward(launch, last, trace)


def _unroll(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _forward(*arguments, False)[:2]


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    (current, *_), others = _split_arguments(arguments)
    _, steps, key, *loop, last = others
    T, _, B, N = current.shape
    states = programs.count_states(key)
    if loop:
        delays, decay, *_ = loop
        states += delays + (decay is not None)
    return current.new_empty(T, steps, B, N), current.new_empty((states, B, N) if last else (0,))


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    *given, grad_output, grad_last = arguments
    # contiguous, because the gradients have the memory layout of their tensors
    given[1:3] = (None if x is None else x.contiguous() for x in given[1:3])
    launch, kernels = _launch(given), dispatch.get_device_backend(given[0].device.type)
    if isinstance(launch, RecurrentLaunch):
        return kernels.recurrent_backward(launch, grad_output, grad_last)
    return kernels.backward(launch, grad_output, grad_last)


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    (current, state, params, _, *synapses), _ = _split_arguments(arguments)
    return tuple(current.new_empty(0 if x is None else x.shape) for x in (current, state, params, *synapses))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, others = _split_arguments(inputs)
    ctx.save_for_backward(*tensors)
    ctx.others = others[:-1]  # without ``last``
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_output: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
    current, state, params, _, *synapses = tensors = ctx.saved_tensors
    kernels = torch.ops.spiky_rl.recurrent_backward if synapses else torch.ops.spiky_rl.unroll_backward
    grads = kernels(*tensors, *ctx.others, grad_output, grad_last)
    inputs = (current, state, params, *synapses)
    gradients = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    # keep, the other arguments and ``last`` have no gradient
    return *gradients[:3], None, *gradients[3:], *(None,) * (len(ctx.others) + 1)


def check_shapes(
    T: int,
    B: int,
    N: int,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    states: int,
    device: torch.device,
) -> None:
    """Raise `ValueError` or `TypeError` if a kernel would read out of bounds or another device's memory.

    ``state`` must be [``states``, ``B``, ``N``], ``params`` [any, N] and ``keep`` [``T``, B], all on the signal's ``device``, or None.
    """
    for label, x in (("states", state), ("parameters", params), ("keep", keep)):
        if x is not None:
            check_device(label, x, device)
    if state is not None and state.shape != (states, B, N):
        raise ValueError(f"states: shape {[*state.shape]} given; expected: {[states, B, N]}")
    if params is not None and params.shape[1:] != (N,):
        raise ValueError(f"parameters: shape {[*params.shape]} given; expected: [P, {N}]")
    if keep is not None and keep.shape != (T, B):
        raise ValueError(f"keep: shape {[*keep.shape]} given; expected: {[T, B]}")


def check_device(label: str, x: Tensor, device: torch.device) -> None:
    """Raise `TypeError` if ``x``, called ``label``, is not on the signal's ``device``: kernels take addresses, which torch does not check."""
    if x.device != device:
        raise TypeError(f"{label}: on {x.device} given; expected: on {device}, where the signal is")


def check_weight(weight: Tensor) -> None:
    """Raise `TypeError` if ``weight`` is not float32 on the CPU, as torch does for tensors of different types."""
    if weight.dtype != torch.float32:
        raise TypeError(
            f"the signal is torch.float32, the weights are {weight.dtype}; convert one to the other's type"
        )
    if not weight.is_cpu:
        raise TypeError(
            f"the signal is on cpu, the weights are on {weight.device}; move one to the other's device"
        )


def _check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise `ValueError` if the shapes or types of signal, weight and bias do not match."""
    bias_fits = bias is None or (bias.dtype == weight.dtype and bias.shape == weight.shape[:1])
    if x.dtype != weight.dtype or x.shape[-1:] != weight.shape[1:] or not bias_fits:
        shapes = [f"{[*t.shape]} in {t.dtype}" for t in (x, weight, bias) if t is not None]
        raise ValueError(f"signal, weight and bias do not match: {', '.join(shapes)}")


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    _check_linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    bits = rows.new_empty((rows.shape[0], count_words(rows.shape[1])) if binary else (0,), dtype=torch.int64)
    y = dispatch.get_device_backend(x.device.type).linear_forward(
        rows, bits if binary else None, weight, bias, binary
    )
    return y.view(*x.shape[:-1], weight.shape[0]), bits


def _linear_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool
) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    bits = x.new_empty((rows, count_words(x.shape[-1])) if binary else (0,), dtype=torch.int64)
    return x.new_empty(*x.shape[:-1], weight.shape[0]), bits


def _linear_backward(
    saved: Tensor, weight: Tensor, grad: Tensor, binary: bool, bfloat16: bool, bias: bool, inputs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_rows, grad_x = grad.reshape(-1, grad.shape[-1]), grad.new_empty(0)
    device = grad.device.type
    with torch.autocast(device, enabled=False):  # the forward ignores autocast, so the gradient must too
        if binary:
            kernels = dispatch.get_device_backend(device)
            grad_weight, grad_bias = kernels.linear_backward(saved, grad_rows, weight.shape[1], bias)
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


def _linear_gradient(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    saved, weight = ctx.saved_tensors
    grads = torch.ops.spiky_rl.linear_backward(
        *(saved, weight, grad, ctx.binary, ctx.bfloat16, ctx.bias, ctx.needs_input_grad[0])
    )
    wanted = (ctx.needs_input_grad[0], True, ctx.bias)
    return *(x if keep else None for x, keep in zip(grads, wanted, strict=True)), None, None


def refuse_second_derivative() -> None:
    """Raise `RuntimeError` if the backward pass that calls this is itself being recorded for differentiation."""
    if torch.is_grad_enabled():
        raise RuntimeError(NO_SECOND_DERIVATIVE)


def no_second_derivative(*_: object) -> NoReturn:
    """Raise `RuntimeError`: the registered gradient of every backward operator."""
    raise RuntimeError(NO_SECOND_DERIVATIVE)


for name, impl, fake in (
    ("unroll", _unroll, _fake),
    ("unroll_backward", _backward, _backward_fake),
    ("recurrent", _unroll, _fake),
    ("recurrent_backward", _backward, _backward_fake),
    ("linear", _linear, _linear_fake),
    ("linear_backward", _linear_backward, _linear_backward_fake),
):
    for dispatch_key in DISPATCH_KEYS:
        LIBRARY.impl(name, impl, dispatch_key)
    torch.library.register_fake(f"spiky_rl::{name}", fake, lib=LIBRARY)
for name, gradient, save in (
    ("unroll", _gradient, _save),
    ("recurrent", _gradient, _save),
    ("linear", _linear_gradient, _save_linear),
):
    torch.library.register_autograd(f"spiky_rl::{name}", gradient, setup_context=save, lib=LIBRARY)
    torch.library.register_autograd(f"spiky_rl::{name}_backward", no_second_derivative, lib=LIBRARY)


def unroll(run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run neurons, with or without a recurrent loop, on the kernels of the compiled backend for the tensors' device."""
    neuron, ops, current, steps, state, params, keep, trace, loop, synapses = run
    call = programs.prepare_call(neuron, ops, params, current.shape[-1])
    tensors = [current, None if state is None else torch.stack(state), call.params, keep]
    others: list[Any] = [call.numbers, steps, call.key]
    if loop is not None:
        tensors.append(synapses)
        others += [loop.delays, loop.decay, loop.binary, loop.cut]
    last, potentials = state is not None, None
    if not needs_operator(*tensors):
        output, after, potentials = _forward(*tensors, *others, last, trace is not None)
    else:
        operator = torch.ops.spiky_rl.unroll if loop is None else torch.ops.spiky_rl.recurrent
        output, after = operator(*tensors, *others, last)
        if trace is not None:  # the operator does not return it
            with torch.no_grad():
                potentials = _forward(*tensors, *others, False, True)[2]
    if trace is not None and potentials is not None:
        trace += potentials.flatten(0, 1).unbind(0)
    return output, () if state is None else tuple(after.unbind(0))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool, bfloat16: bool) -> Tensor:
    """Return `Backend.linear` of the arguments, computed by the compiled backend for the tensors' device."""
    if needs_operator(x, weight, bias):
        return torch.ops.spiky_rl.linear(x, weight, bias, binary, bfloat16)[0]
    _check_linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    y = dispatch.get_device_backend(x.device.type).linear_forward(rows, None, weight, bias, binary)
    return y.view(*x.shape[:-1], weight.shape[0])


def needs_operator(*tensors: Tensor | None) -> bool:
    """Return whether autograd or a tracer records a call with these ``tensors``, so that it must be a torch operator."""
    learned = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return learned or dispatch.is_traced()
