"""Kernel arguments from a neuron, its surrogate and its parameters: a program, numbers, and one tensor."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config import registry
from spiky_rl.config.modules import find_module_file
from spiky_rl.kernels import dispatch, emit, trace
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

PROGRAMS: dict[str, emit.KernelProgram] = {}
"""Programs by key; a registered operator finds its kernel by the key."""
_KEYS: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True)
class NeuronCall:
    """One neuron with its parameters, in the form that kernels take."""

    key: str
    """Key of its program in `PROGRAMS`; if `dispatch.is_traced`, the text of `serialize_key`."""
    numbers: tuple[float, ...]
    """The parameters that are the same for all neurons, in the neuron's order, then the slope."""
    params: Tensor | None
    """[P, N]: the parameters that differ between neurons; None if no parameter does."""

    @property
    def uniforms(self) -> tuple[float, ...]:
        """The numbers that the kernel computes with, derived from ``numbers``."""
        return resolve_key(self.key, self.numbers)[1]


def prepare_call(neuron: Neuron, ops: TorchOps, params: tuple[Tensor | float, ...], width: int) -> NeuronCall:
    """Trace the neuron, or find its earlier trace, and sort its parameters.

    Args:
        neuron: The neuron to run.
        ops: The op vocabulary with surrogate and slope.
        params: The neuron's parameters in their order: numbers or [N] tensors.
        width: N.
    """
    varying = tuple(isinstance(p, Tensor) for p in params)
    name = serialize_key if dispatch.is_traced() else _make_key
    numbers = (*[p for p in params if not isinstance(p, Tensor)], ops.slope)
    tensors = [p.expand(width) for p in params if isinstance(p, Tensor)]
    return NeuronCall(name(neuron, ops, varying), numbers, torch.stack(tensors) if tensors else None)


@lru_cache(maxsize=4096)
def resolve_key(key: str, numbers: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """Return the key in `PROGRAMS` that ``key`` means, and the uniforms computed from ``numbers``. Raises `TraceError` if that fails."""
    key = key if key in PROGRAMS else _read_key(key)
    program = PROGRAMS[key]
    uniform = [name for name, varies in zip(program.names, program.varying, strict=True) if not varies]
    given = dict(zip((*(f"parameter {name}" for name in uniform), "slope"), numbers, strict=True))
    return key, tuple(program.uniforms(given))


def count_states(key: str) -> int:
    """Return how many states the neuron of the program ``key`` has."""
    return PROGRAMS[key if key in PROGRAMS else _read_key(key)].states


def _make_key(neuron: Neuron, ops: TorchOps, varying: tuple[bool, ...]) -> str:
    # a number that is a parameter may still shape the step (a resting potential, say), so all chosen values count; as text, because
    # a list has no hash
    index = (type(neuron), repr(neuron.chosen), type(ops.surrogate), repr(ops.surrogate.chosen), varying)
    if index not in _KEYS:
        _KEYS[index] = _register_program(neuron, ops.surrogate, varying)
    return _KEYS[index]


def _register_program(neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> str:
    program = emit.build_program(neuron, surrogate, varying)
    # neurons with equal text may differ in a number that only enters the expressions computed on the host
    identity = program.text + trace.describe(program.slots)
    key = f"{type(neuron).__name__}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    PROGRAMS.setdefault(key, program)
    return key


def serialize_key(neuron: Neuron, ops: TorchOps, varying: tuple[bool, ...]) -> str:
    """Return a text from which the program can be rebuilt: ``neuron``, the surrogate of ``ops``, and which parameters are ``varying``.

    It serves recorded graphs. torch.compile can trace and guard it, because it is plain Python on plain values, and an exported
    graph finds its kernels by it in a process that has never seen the neuron.
    """
    surrogate = ops.surrogate
    kinds = [f"{cls.__module__}:{cls.__qualname__}" for cls in (type(neuron), type(surrogate))]
    shape, options = _list_finite(neuron.chosen), _list_finite(surrogate.chosen)
    return _format_literal((kinds[0], shape, kinds[1], options, varying))


def _list_finite(chosen: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the ``chosen`` options without infinite ones: only a default can be infinite, and a rebuilt component has it too."""
    return tuple((name, value) for name, value in chosen.items() if value not in (math.inf, -math.inf))


def _format_literal(value: object) -> str:
    """Return ``repr(value)`` in a form that torch.compile can trace."""
    # imported only here: the import is slow, and a compilation has already done it
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    if isinstance(value, (tuple, list)):
        items = "".join([f"{_format_literal(x)}," for x in value])
        return f"({items})" if isinstance(value, tuple) else f"[{items}]"
    if isinstance(value, (int, float)):
        value = guard_scalar(value)  # torch.compile replaces a module's changing numbers by symbols
    return f"{value!r}"


@cache
def _read_key(serialized: str) -> str:
    """Build the program that a text of `serialize_key` describes; return its key in `PROGRAMS`."""
    kind, shape, surrogate_kind, options, varying = ast.literal_eval(serialized)
    neuron, surrogate = load_component("neurons", kind), load_component("surrogates", surrogate_kind)
    # without the slope, which is an argument of the program
    return _register_program(
        neuron.from_options(**dict(shape)), surrogate.from_options(**dict(options)), varying
    )


def load_component(kind: str, name: str) -> Any:
    """Return the component class of a ``kind`` by its "module:Class" ``name``; the module may be a file."""
    module, _, attribute = name.rpartition(":")
    return registry.resolve(kind, f"{find_module_file(module)}:{attribute}")


@cache
def read_header(name: str) -> str:
    """Return the text of the C header ``csrc/NAME.h``."""
    return (
        (Path(__file__).parent / "csrc" / f"{name}.h")
        .read_text(encoding="utf-8")
        .replace("#pragma once\n", "")
    )


def build_source(program: emit.KernelProgram) -> str:
    """Return the complete C text of a ``program``'s kernels: lanes, step, loops. It compiles for the GPU if GPU is defined."""
    return "\n".join([read_header("lanes"), read_header("job"), program.text, read_header("loops")])


def count_words(inputs: int) -> int:
    """Return how many 64-bit words hold the events of a row of ``inputs``."""
    return (inputs + 63) // 64
