"""The one place where a backend is chosen.

A backend is a contract: one that is named runs, or raises with the reason and the remedy. Only ``auto`` chooses, by the
device and type of what it is given, and it logs once what it chose and why.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spiky_rl.config import registry
from spiky_rl.config.options import option
from spiky_rl.config.registry import RegistryError, nearest
from spiky_rl.kernels import compiler
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.runs import Feedback, Run
from spiky_rl.neurons.base import Neuron

if TYPE_CHECKING:
    from spiky_rl.kernels.backends._compiled import Compiled

log = logging.getLogger(__name__)

AUTO, REFERENCE = "auto", "torch"
"""What chooses, and what it chooses where nothing else can."""
_BUILT: dict[str, Backend] = {}


def names() -> list[str]:
    """All backends of the package."""
    return registry.names("backends")


def backend_option() -> Any:
    """Declare a network's option ``backend``, whose meaning lists all backends of the package."""
    meaning = (
        f"backend that runs neurons and connections: {', '.join((AUTO, *names()))}, or path/file.py:Class"
    )
    return option(AUTO, meaning)


def built(name: str) -> Backend:
    """The backend called ``name``, whether or not it is available: always the same object."""
    if name not in _BUILT:
        made = registry.Configured(name, registry.resolve("backends", name), {}, {}).build()
        made.stand_in = made if name == REFERENCE else built(REFERENCE)
        _BUILT[name] = made
    return _BUILT[name]


@cache
def backend(name: str) -> Backend:
    """The backend called ``name``. Raises `RegistryError` for an unknown one and for one that is not available."""
    if ":" not in name and name not in names():
        known = (AUTO, *names())
        raise RegistryError(f"unknown backend {name!r}; choose from {', '.join(known)}{nearest(name, known)}")
    chosen = built(name)
    if reason := chosen.available():
        raise RegistryError(f"backend {name!r} is not available: {reason}")
    return chosen


def check(name: str) -> None:
    """Raise `RegistryError` if ``name`` is neither ``auto`` nor a backend that runs here.

    Raises UserError where ``auto`` will want kernels for this CPU whose cache is not to be trusted.
    """
    if name != AUTO:
        backend(name)
    elif not torch.cuda.is_available():
        compiler.refuse_foreign_cache()


@cache
def compiled() -> dict[str, str]:
    """Names of the package's backends that compute on a kind of device, by that kind. Raises `RegistryError` for two of one kind."""
    names_by_device: dict[str, str] = {}
    for name in names():
        device = built(name).device
        if device in names_by_device:
            raise RegistryError(
                f"backends {names_by_device[device]!r} and {name!r} both compute on {device}; auto can mean one alone: one names no device"
            )
        if device is not None:
            names_by_device[device] = name
    return names_by_device


def on(device: str) -> Compiled:
    """The backend whose kernels compute on a kind of ``device``: what a torch operator runs."""
    return built(compiled()[device])  # type: ignore[return-value]


@cache
def automatic(device: str) -> str:
    """Name of the backend that ``auto`` stands for on a kind of ``device``: its compiled backend, or the torch reference."""
    name = compiled().get(device)
    reason = f"no backend compiles for {device}" if name is None else built(name).available()
    if name is None or reason:
        log.warning("neurons on %s run on the %s backend, which is slow: %s", device, REFERENCE, reason)
        return REFERENCE
    log.debug("neurons on %s run on the %s backend", device, name)
    return name


@cache
def _fall(device: str, reason: str) -> None:
    """Log, once for each of them, that ``auto`` gives the torch backend what compiled kernels cannot take."""
    log.warning("neurons on %s run on the %s backend, which is slow: %s", device, REFERENCE, reason)


def _meant(name: str, device: str) -> str:
    """The name of the backend that ``name`` means for a kind of device. Raises as `backend`."""
    if name == AUTO:
        return automatic(device)
    backend(name)
    return name


def _say_fall(device: str, reason: str) -> None:
    """As `_fall`: what `choose` calls while a graph is compiled, too."""
    _fall(device, reason)


# not traced, their results constants: torch.compiler.assume_constant_result does it too, and takes seconds to import
for function in (_meant, _say_fall):
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  # functions declare no such attribute


def choose(name: str, x: Tensor, ops: TorchOps | None = None) -> Backend:
    """The backend for a tensor. ``auto``: compiled kernels where they can take it, else the torch reference.

    Args:
        name: Name of a backend, or ``auto``.
        x: What it is to take.
        ops: The vocabulary that neurons will run on, if any do.

    Raises `RegistryError` where the backend that is named cannot take it: its kernels would read something else.
    """
    device = x.device.type
    meant = _meant(name, device)
    chosen, reason = _BUILT[meant], None
    if chosen.device is None:
        return chosen
    if chosen.device != device:
        reason = f"computes on {chosen.device}, the tensor lies on {device}"
    elif x.dtype != torch.float32:
        reason = f"computes in float32, not in {x.dtype}"
    elif ops is not None and ops.soft_spike:
        reason = "has no smooth spikes"
    if reason is None:
        return chosen
    if name != AUTO:
        raise RegistryError(f"backend {name!r} {reason}; backend: {REFERENCE} does")
    _say_fall(device, f"backend {meant!r} {reason}")
    return _BUILT[_meant(REFERENCE, device)]


def unroll(
    name: str,
    neuron: Neuron,
    ops: TorchOps,
    current: Tensor,
    steps: int,
    state: tuple[Tensor, ...] | None,
    params: tuple[Tensor | float, ...],
    keep: Tensor | None = None,
    trace: list[Tensor] | None = None,
    feedback: Feedback | None = None,
    synapses: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Neurons over time: outputs [T, K, B, N] and the states after the last step.

    Args:
        name: Name of a backend, or ``auto``.
        neuron: Whose step is run; like all that follow, a field of `Run`, where its shape is.
        ops: The vocabulary, with surrogate and slope.
        current: Its input.
        steps: K.
        state: Before the first step; None: rest, and none comes out.
        params: As the step takes them.
        keep: Where episodes begin.
        trace: Gets the first state after every step.
        feedback: With one the backend's `recurrent` runs.
        synapses: Its weights.
    """
    run = Run(neuron, ops, current, steps, state, params, keep, trace, feedback, synapses)
    chosen = choose(name, current, ops)
    return chosen.unroll(run) if feedback is None else chosen.recurrent(run)


def linear(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
) -> Tensor:
    """A linear map on the backend that ``name`` means.

    ``x``, ``weight``, ``bias``, ``binary`` and ``bfloat16`` are those of `Backend.linear`.
    """
    return choose(name, x).linear(x, weight, bias, binary, bfloat16)
