"""The recurrent loop as a torch operator: ``spiky_rl::recurrent`` runs all steps of a layer, or of a reservoir, in one call."""

# pylint: disable=unused-argument  # an operator's shapes are a function of all of its arguments

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import operators, programs
from spiky_rl.kernels.feedback import Feedback, Loop
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

_ARGUMENTS = (
    "Tensor current, Tensor? state, Tensor? params, Tensor? keep, Tensor synapses, float[] numbers, int steps, str key,"
    " int delays, float? decay, bool binary, bool cut"
)
operators.LIBRARY.define(f"recurrent({_ARGUMENTS}, bool last) -> (Tensor, Tensor)")
operators.LIBRARY.define(
    f"recurrent_backward({_ARGUMENTS}, Tensor? grad_output, Tensor? grad_last) -> (Tensor, Tensor, Tensor, Tensor)"
)
_TENSORS = 5
"""How many of the arguments are tensors; they come first."""


def _loop(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    synapses: Tensor,
    numbers: Sequence[float],
    steps: int,
    key: str,
    delays: int,
    decay: float | None,
    binary: bool,
    cut: bool,
) -> Loop:
    """What the operators' arguments are. Raises `ValueError` where a kernel would read beyond what it is given."""
    key, uniforms = programs.found(key, tuple(numbers))
    T, _, B, N = current.shape
    feedback = Feedback(delays, binary, decay, cut)
    operators.fit(T, B, N, state, params, keep, programs.KNOWN[key].states + feedback.states)
    if synapses.shape != (delays * N, N):
        raise ValueError(f"synapses of shape {[*synapses.shape]} do not fit: {[delays * N, N]} is wanted")
    return Loop(key, current, state, params, keep, synapses, uniforms, steps, feedback)


def _forward(loop: Loop, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return operators.COMPILED[loop.current.device.type].recurrent_forward(loop, last, trace)


def _recurrent(*arguments: Any) -> tuple[Tensor, Tensor]:
    *given, last = arguments
    return _forward(_loop(*given), last)[:2]


def _recurrent_fake(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    synapses: Tensor,
    numbers: Sequence[float],
    steps: int,
    key: str,
    delays: int,
    decay: float | None,
    *others: bool,
) -> tuple[Tensor, Tensor]:
    T, _, B, N = current.shape
    states = programs.states(key) + delays + (decay is not None)
    return current.new_empty(T, steps, B, N), current.new_empty((states, B, N) if others[-1] else (0,))


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    *given, grad_output, grad_last = arguments
    loop = _loop(*given)
    module = operators.COMPILED[loop.current.device.type]
    return module.recurrent_backward(loop, grad_output, grad_last)


def _backward_fake(
    current: Tensor,
    state: Tensor | None,
    params: Tensor | None,
    keep: Tensor | None,
    synapses: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    return tuple(current.new_empty(0 if x is None else x.shape) for x in (current, state, params, synapses))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.others = inputs[_TENSORS:-1]
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad_output: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    grads = torch.ops.spiky_rl.recurrent_backward(*tensors, *ctx.others, grad_output, grad_last)
    wanted = (*tensors[:3], tensors[4])
    found = [None if x is None else grad for x, grad in zip(wanted, grads, strict=True)]
    return *found[:3], None, found[3], *(None,) * (len(ctx.others) + 1)


for place in map(str.upper, operators.COMPILED):
    operators.LIBRARY.impl("recurrent", _recurrent, place)
    operators.LIBRARY.impl("recurrent_backward", _backward, place)
torch.library.register_fake("spiky_rl::recurrent", _recurrent_fake, lib=operators.LIBRARY)
torch.library.register_fake("spiky_rl::recurrent_backward", _backward_fake, lib=operators.LIBRARY)
torch.library.register_autograd("spiky_rl::recurrent", _gradient, setup_context=_save, lib=operators.LIBRARY)
torch.library.register_autograd(
    "spiky_rl::recurrent_backward", operators.no_second_derivative, lib=operators.LIBRARY
)


def recurrent(
    module: ModuleType,
    neuron: Neuron,
    ops: TorchOps,
    feedback: Feedback,
    synapses: Tensor,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None = None,
    trace: list[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `torch_backend.recurrent`, by the kernels of a compiled backend.

    Raises `RegistryError` for what the kernels do not do: another device or type, smooth spikes.
    """
    operators.refuse_unfit(module, ops, current)
    call = programs.call(neuron, ops, params, current.shape[-1])
    stacked = None if state is None else torch.stack(state)
    tensors = (current, stacked, call.params, keep, synapses)
    others = (call.numbers, steps, call.key, feedback.delays, feedback.decay, feedback.binary, feedback.cut)
    last, potentials = state is not None, None
    if not operators.as_operator(*tensors):
        output, after, potentials = _forward(_loop(*tensors, *others), last, trace is not None)
    else:
        output, after = torch.ops.spiky_rl.recurrent(*tensors, *others, last)
        if trace is not None:  # which the operator does not give
            with torch.no_grad():
                potentials = _forward(_loop(*tensors, *others), last, True)[2]
    if trace is not None and potentials is not None:
        trace += potentials.flatten(0, 1).unbind(0)
    return output, () if state is None else tuple(after.unbind(0))
