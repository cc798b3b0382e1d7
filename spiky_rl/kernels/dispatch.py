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
from spiky_rl.config.registry import RegistryError, suggest_name
from spiky_rl.kernels import compiler
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.launch import NeuronRun, RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

if TYPE_CHECKING:
    from spiky_rl.kernels.backends._compiled import Compiled

log = logging.getLogger(__name__)

AUTO, REFERENCE = "auto", "torch"
"""What chooses, and what it chooses where nothing else can."""
_BUILT: dict[str, Backend] = {}


def list_backends() -> list[str]:
    """All backends of the package."""
    return registry.list_names("backends")


def backend_option() -> Any:
    """Declare a network's option ``backend``, whose meaning lists all backends of the package."""
    meaning = f"backend that runs neurons and connections: {', '.join((AUTO, *list_backends()))}, or path/file.py:Class"
    return option(AUTO, meaning)


def get_backend(name: str) -> Backend:
    """The backend called ``name``, whether or not it is available: always the same object."""
    if name not in _BUILT:
        made = registry.ComponentSpec(name, registry.resolve("backends", name), {}, {}).build()
        made.is_fallback = made if name == REFERENCE else get_backend(REFERENCE)
        _BUILT[name] = made
    return _BUILT[name]


@cache
def require_backend(name: str) -> Backend:
    """The backend called ``name``. Raises `RegistryError` for an unknown one and for one that is not available."""
    if ":" not in name and name not in list_backends():
        known = (AUTO, *list_backends())
        raise RegistryError(
            f"unknown backend {name!r}; choose from {', '.join(known)}{suggest_name(name, known)}"
        )
    chosen = get_backend(name)
    if reason := chosen.get_unavailable_reason():
        raise RegistryError(f"backend {name!r} is not available: {reason}")
    return chosen


def check(name: str) -> None:
    """Raise `RegistryError` if ``name`` is neither ``auto`` nor a backend that runs here.

    Raises UserError where ``auto`` will want kernels for this CPU whose cache is not to be trusted.
    """
    if name != AUTO:
        require_backend(name)
    elif not torch.cuda.is_available():
        compiler.refuse_foreign_cache()


@cache
def list_compiled_backends() -> dict[str, str]:
    """Names of the package's backends that compute on a kind of device, by that kind. Raises `RegistryError` for two of one kind."""
    names_by_device: dict[str, str] = {}
    for name in list_backends():
        device = get_backend(name).device
        if device in names_by_device:
            raise RegistryError(
                f"backends {names_by_device[device]!r} and {name!r} both compute on {device}; auto can mean one alone: one names no device"
            )
        if device is not None:
            names_by_device[device] = name
    return names_by_device


def get_device_backend(device: str) -> Compiled:
    """The backend whose kernels compute on a kind of ``device``: what a torch operator runs."""
    return get_backend(list_compiled_backends()[device])  # type: ignore[return-value]


@cache
def resolve_auto(device: str) -> str:
    """Name of the backend that ``auto`` stands for on a kind of ``device``: its compiled backend, or the torch reference."""
    name = list_compiled_backends().get(device)
    reason = (
        f"no backend compiles for {device}" if name is None else get_backend(name).get_unavailable_reason()
    )
    if name is None or reason:
        log.warning("neurons on %s run on the %s backend, which is slow: %s", device, REFERENCE, reason)
        return REFERENCE
    log.debug("neurons on %s run on the %s backend", device, name)
    return name


@cache
def _log_fallback(device: str, reason: str) -> None:
    """Log, once for each of them, that ``auto`` gives the torch backend what compiled kernels cannot take."""
    log.warning("neurons on %s run on the %s backend, which is slow: %s", device, REFERENCE, reason)


def _resolve_name(name: str, device: str) -> str:
    """The name of the backend that ``name`` means for a kind of device. Raises as `backend`."""
    if name == AUTO:
        return resolve_auto(device)
    require_backend(name)
    return name


def _log_fallback_if_eager(device: str, reason: str) -> None:
    """As `_log_fallback`: what `choose_backend` calls while a graph is compiled, too."""
    _log_fallback(device, reason)


# not traced, their results constants: torch.compiler.assume_constant_result does it too, and takes seconds to import
for function in (_resolve_name, _log_fallback_if_eager):
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  # functions declare no such attribute


def choose_backend(name: str, x: Tensor, ops: TorchOps | None = None) -> Backend:
    """The backend for a tensor. ``auto``: compiled kernels where they can take it, else the torch reference.

    Args:
        name: Name of a backend, or ``auto``.
        x: What it is to take.
        ops: The vocabulary that neurons will run on, if any do.

    Raises `RegistryError` where the backend that is named cannot take it: its kernels would read something else.
    """
    device = x.device.type
    meant = _resolve_name(name, device)
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
    _log_fallback_if_eager(device, f"backend {meant!r} {reason}")
    return _BUILT[_resolve_name(REFERENCE, device)]


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
    feedback: RecurrentFeedback | None = None,
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
    run = NeuronRun(neuron, ops, current, steps, state, params, keep, trace, feedback, synapses)
    chosen = choose_backend(name, current, ops)
    return chosen.run_neuron(run) if feedback is None else chosen.run_recurrent(run)


def linear(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
) -> Tensor:
    """A linear map on the backend that ``name`` means.

    ``x``, ``weight``, ``bias``, ``binary`` and ``bfloat16`` are those of `Backend.linear`.
    """
    return choose_backend(name, x).linear(x, weight, bias, binary, bfloat16)
