"""The one place where a backend is chosen.

A backend is a contract: one that is named runs, or raises with the reason and the remedy. Only ``auto`` chooses, by the
device and type of what it is given, and it logs once what it chose and why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.registry import RegistryError, nearest
from spiky_rl.kernels import compiler, cpu_backend, operators, torch_backend
from spiky_rl.kernels import convolution as event_driven
from spiky_rl.kernels import recurrent as loops
from spiky_rl.kernels.feedback import Feedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

log = logging.getLogger(__name__)


def names() -> list[str]:
    """All backends: the files of this room that end in ``_backend``."""
    return list(operators.BACKENDS)


@cache
def backend(name: str) -> ModuleType:
    """The backend called ``name``. Raises `RegistryError` for an unknown one and for one that is not available."""
    if name not in names():
        known = ("auto", *names())
        raise RegistryError(f"unknown backend {name!r}; choose from {', '.join(known)}{nearest(name, known)}")
    module = operators.BACKENDS[name]
    if reason := module.available():
        raise RegistryError(f"backend {name!r} is not available: {reason}")
    return module


def check(name: str) -> None:
    """Raise `RegistryError` if ``name`` is neither ``auto`` nor a backend that runs here.

    Raises UserError where ``auto`` will want kernels for this CPU whose cache is not to be trusted.
    """
    if name != "auto":
        backend(name)
    elif not torch.cuda.is_available():
        compiler.refuse_foreign_cache()


@cache
def automatic(device: str) -> ModuleType:
    """What ``auto`` means for a kind of device: its compiled backend, or the torch reference."""
    module = operators.COMPILED.get(device)
    reason = f"no backend compiles for {device}" if module is None else module.available()
    if module is None or reason:
        log.warning("neurons on %s run on the torch backend, which is slow: %s", device, reason)
        return torch_backend
    log.info("neurons on %s run on the %s backend", device, operators.name_of(module))
    return module


def _named(name: str, device: str) -> str:
    """The name of the backend that ``name`` means: what `choose` asks while a graph is compiled."""
    return operators.name_of(automatic(device) if name == "auto" else backend(name))


@cache
def _fall(device: str, dtype: torch.dtype) -> None:
    """Log, once for each of them, that ``auto`` gives the torch backend what compiled kernels cannot take."""
    reason = "spikes are smooth" if dtype == torch.float32 else f"the signal is {dtype}, not torch.float32"
    log.warning("neurons on %s run on the torch backend, which is slow: %s", device, reason)


def _say_fall(device: str, dtype: torch.dtype) -> None:
    """As `_fall`: what `choose` calls while a graph is compiled, too."""
    _fall(device, dtype)


# not traced, their results constants: torch.compiler.assume_constant_result does it too, and takes seconds to import
for function in (_named, _say_fall):
    setattr(function, "_dynamo_marked_constant", True)


def choose(name: str, x: Tensor, ops: TorchOps | None = None) -> ModuleType:
    """The backend for a tensor. ``auto``: compiled kernels where they can take it, else the torch reference.

    Raises `RegistryError` where the backend that is named cannot take it: its kernels would read something else.
    """
    unfit = x.dtype != torch.float32 or (ops is not None and ops.soft_spike)
    if name == "auto" and unfit:
        _say_fall(x.device.type, x.dtype)
        return torch_backend
    if torch.compiler.is_compiling():
        module = operators.BACKENDS[_named(name, x.device.type)]
    else:
        module = automatic(x.device.type) if name == "auto" else backend(name)
    if module is not torch_backend and (unfit or x.device.type != module.DEVICE):
        operators.refuse_unfit(module, ops, x)  # type: ignore[arg-type]
    return module


def unroll(
    name: str, neuron: Neuron, ops: TorchOps, current: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a neuron over time on the backend that ``name`` means; arguments as `torch_backend.unroll`'s."""
    module = choose(name, current, ops)
    if module is torch_backend:
        return torch_backend.unroll(neuron, ops, current, *args, **kwargs)
    return operators.unroll(module, neuron, ops, current, *args, **kwargs)


def recurrent(
    name: str,
    neuron: Neuron,
    ops: TorchOps,
    feedback: Feedback,
    synapses: Tensor,
    current: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `unroll`, of neurons whose output returns into their current; arguments as `torch_backend.recurrent`'s."""
    module = choose(name, current, ops)
    if module is torch_backend:
        return torch_backend.recurrent(neuron, ops, feedback, synapses, current, *args, **kwargs)
    return loops.recurrent(module, neuron, ops, feedback, synapses, current, *args, **kwargs)


def linear(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
) -> Tensor:
    """x [..., C] times weight [N, C] plus bias -> [..., N].

    ``binary``: x is 0 or 1, and a backend may follow the ones alone. ``bfloat16``: the gradient of x may be computed in
    bfloat16.
    """
    module = choose(name, x)
    # on a GPU the product is torch's own, and only what is kept for the backward pass is ours
    if module is cpu_backend or (module is not torch_backend and binary and torch.is_grad_enabled()):
        return operators.linear(x, weight, bias, binary, bfloat16)
    return torch.nn.functional.linear(x, weight, bias)


def convolution(
    name: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    maps: Sequence[int],
    stride: int,
    padding: int,
    pool: int,
    binary: bool = False,
) -> Tensor:
    """Maps x [..., C H W] under weight [C', C, kernel, kernel], of every ``pool`` x ``pool`` block the largest current.

    Args:
        name: Of the backend.
        x: Flat, columns fastest.
        weight: A current is a product with it, plus its channel's bias.
        bias: [C'].
        maps: (C, H, W).
        stride: Places that the kernel moves at once.
        padding: Zeros around the maps.
        pool: Side of a block; the first of equal currents takes the gradient.
        binary: x is 0 or 1.

    Returns:
        [..., C' H' W'], flat.
    """
    if choose(name, x) is cpu_backend and pool <= event_driven.LARGEST_POOL:
        shape = event_driven.geometry(maps, weight, stride, padding, pool)
        return event_driven.convolution(x, weight, bias, shape, binary)
    current = torch.nn.functional.conv2d(x.reshape(-1, *maps), weight, bias, stride, padding)
    return torch.nn.functional.max_pool2d(current, pool).reshape(*x.shape[:-1], -1)
