"""The one place where a backend is chosen.

A backend that is named runs, or raises an error with the reason and a remedy. Only ``auto`` chooses: it decides by the tensor's
device and type, and logs its choice and the reason once.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _is_tracing, _len_torch_dispatch_stack  # a rollout asks in every step: these cost 0.2 us
from torch._C._functorch import peek_interpreter_stack  # pylint: disable=import-error  # in C
from torch.autograd import forward_ad

from spiky_rl.config import registry
from spiky_rl.config.options import option
from spiky_rl.config.registry import RegistryError, suggest_name
from spiky_rl.kernels import compiler
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.launch import NeuronRun, RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

if TYPE_CHECKING:
    from spiky_rl.kernels.backends._compiled import CompiledBackend

log = logging.getLogger(__name__)

AUTO, REFERENCE = "auto", "torch"
"""The name that lets the package choose, and the backend that it falls back to."""
_BUILT: dict[str, Backend] = {}


def list_backends() -> list[str]:
    """Return the names of all backends in the package."""
    return registry.list_names("backends")


def backend_option() -> Any:
    """Declare a network's option ``backend`` with a description that lists all backends of the package."""
    meaning = f"backend that runs neurons and connections: {', '.join((AUTO, *list_backends()))}, or path/file.py:Class"
    return option(AUTO, meaning)


def get_backend(name: str) -> Backend:
    """Return the backend called ``name``, available or not. Every call returns the same object."""
    if name not in _BUILT:
        made = registry.ComponentSpec(name, registry.resolve("backends", name), {}, {}).build()
        made.fallback = made if name == REFERENCE else get_backend(REFERENCE)
        _BUILT[name] = made
    return _BUILT[name]


@cache
def require_backend(name: str) -> Backend:
    """Return the backend called ``name``. Raises `RegistryError` if it is unknown or not available."""
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

    Raises UserError if ``auto`` needs CPU kernels and another user can write to their cache.
    """
    if name != AUTO:
        _forget_if_redefined(name)
        require_backend(name)
    elif not torch.cuda.is_available():
        compiler.refuse_foreign_cache()


def _forget_if_redefined(name: str) -> None:
    """Forget the backend called ``name`` if it is from outside the package and the name means another class by now."""
    if name in _BUILT and registry.is_foreign(name):
        if _BUILT[name].__class__ is not registry.resolve("backends", name):
            del _BUILT[name]
            require_backend.cache_clear()


@cache
def list_compiled_backends() -> dict[str, str]:
    """Return the name of the package's backend for each device type. Raises `RegistryError` if two backends share a device type."""
    names_by_device: dict[str, str] = {}
    for name in list_backends():
        device = get_backend(name).device
        if device in names_by_device:
            raise RegistryError(
                f"backends {names_by_device[device]!r} and {name!r} both have device {device!r}, but auto needs one backend per"
                " device; set device = None in one of them"
            )
        if device is not None:
            names_by_device[device] = name
    return names_by_device


def get_device_backend(device: str) -> CompiledBackend:
    """Return the compiled backend for a ``device`` type: the torch operators run its kernels."""
    return get_backend(list_compiled_backends()[device])  # type: ignore[return-value]


@cache
def resolve_auto(device: str) -> str:
    """Return the backend that ``auto`` means on a ``device`` type: its compiled backend, or the torch reference."""
    name = list_compiled_backends().get(device)
    reason = (
        f"no backend compiles for {device}" if name is None else get_backend(name).get_unavailable_reason()
    )
    if name is None or reason:
        _log_fallback(device, str(reason))
        return REFERENCE
    log.debug("neurons on %s run on the %s backend", device, name)
    return name


@cache
def _log_fallback(device: str, reason: str) -> None:
    """Log, once for each ``device`` and ``reason``, that ``auto`` falls back to the torch backend."""
    log.warning("neurons on %s run on the %s backend, which is slow: %s", device, REFERENCE, reason)


def _resolve_name(name: str, device: str) -> str:
    """Return the backend that ``name`` means on a ``device`` type. Raises as `require_backend`."""
    if name == AUTO:
        return resolve_auto(device)
    require_backend(name)
    return name


def _log_fallback_if_eager(device: str, reason: str) -> None:
    """Call `_log_fallback`; `choose_backend` calls this function also while torch.compile traces it."""
    _log_fallback(device, reason)


def _is_transformed() -> bool:
    """Return whether a transform of `torch.func`, or a level of forward-mode AD, sees the operations."""
    # pylint: disable-next=protected-access
    return forward_ad._current_level >= 0 or peek_interpreter_stack() is not None  # 0.1 us


def _exports_onnx() -> bool:
    """Return whether `torch.onnx.export` sees the operations."""
    return (torch.compiler.is_exporting() or _is_tracing()) and torch.onnx.is_in_onnx_export()  # 0.1 us


# torch.compile does not trace these four and treats their results as constants; torch.compiler.assume_constant_result has the same
# effect, but takes seconds to import
for function in (_resolve_name, _log_fallback_if_eager, _is_transformed, _exports_onnx):
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  # functions declare no such attribute


def choose_backend(name: str, x: Tensor, ops: TorchOps | None = None) -> Backend:
    """Return the backend for the tensor ``x``. With ``auto``: compiled kernels if they support ``x``, else the torch reference.

    Args:
        name: Name of a backend, or ``auto``.
        x: Input of the backend.
        ops: Op vocabulary of the neurons; None if no neurons run.

    Raises `RegistryError` if the named backend does not support ``x`` or ``ops``.
    """
    device = x.device.type
    resolved = _resolve_name(name, device)
    chosen, reason = _BUILT[resolved], None
    if chosen.device is None:
        return chosen
    if chosen.device != device:
        reason = f"computes on {chosen.device}, the tensor lies on {device}"
    elif x.dtype != torch.float32:
        reason = f"computes in float32, not in {x.dtype}"
    elif ops is not None and ops.soft_spike:
        reason = "has no smooth spikes"
    elif _is_transformed():
        reason = "supports neither torch.func nor derivatives of forward mode"
    elif _exports_onnx():
        reason = "has no operators in ONNX"
    if reason is None:
        return chosen
    if name != AUTO:
        raise RegistryError(f"backend {name!r} {reason}; backend: {REFERENCE} does")
    _log_fallback_if_eager(device, f"backend {resolved!r} {reason}")
    return _BUILT[_resolve_name(REFERENCE, device)]


def is_traced() -> bool:
    """Return whether torch.compile, torch.jit.trace or a dispatch mode, such as that of fake tensors, sees the operations.

    Kernels must then run as torch operators: a call by address would be missing in a graph, and a fake tensor has no address.
    """
    return torch.compiler.is_compiling() or _is_tracing() or _len_torch_dispatch_stack() > 0


def check_steps(signal: Tensor, steps: int) -> None:
    """Raise `ValueError` if ``signal`` [T, K or 1, B, C] has no control step, or another number of inner steps than 1 or K = ``steps``."""
    T, K = signal.shape[:2]
    if T < 1:
        raise ValueError(f"control steps: {T} given; expected: at least 1")
    if K not in (1, steps):
        raise ValueError(f"inner steps: {K} given; expected: 1 or {steps}")


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
    """Run neurons over time; return their outputs [T, K, B, N] and the states after the last step.

    ``name`` is the name of a backend, or ``auto``; the other arguments are the fields of `NeuronRun`. Raises as `check_steps`.
    """
    run = NeuronRun(neuron, ops, current, steps, state, params, keep, trace, feedback, synapses)
    return run_neuron(name, run)


def run_neuron(name: str, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Call `unroll` with the fields of ``run``."""
    check_steps(run.current, run.steps)
    chosen = choose_backend(name, run.current, run.ops)
    return chosen.run_neuron(run) if run.feedback is None else chosen.run_recurrent(run)


def linear(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
) -> Tensor:
    """Return `Backend.linear` of the remaining arguments on the backend that ``name`` means."""
    return choose_backend(name, x).linear(x, weight, bias, binary, bfloat16)
