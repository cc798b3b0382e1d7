"""From a neuron, its surrogate and its parameters to what a kernel takes: a program, numbers, and one tensor."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config import registry
from spiky_rl.kernels import emit
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

PROGRAMS: dict[str, emit.KernelProgram] = {}
"""Programs by key: what a registered operator finds its kernel by."""
_KEYS: dict[tuple[Any, ...], str] = {}
FILE = "spiky_rl_file_"
"""What the registry puts before the path of a file that it loads as a module."""


@dataclass(frozen=True)
class NeuronCall:
    """One neuron with its parameters, as a kernel takes it."""

    key: str
    """The key of its program in `PROGRAMS`; within a graph that is being compiled: in words."""
    numbers: tuple[float, ...]
    """The parameters that are the same for all neurons, in the neuron's order, and the slope."""
    params: Tensor | None
    """[P, N]: the parameters that differ between neurons; None: there are none."""

    @property
    def uniforms(self) -> tuple[float, ...]:
        """The numbers that the kernel computes with, derived from ``numbers``."""
        return resolve_key(self.key, self.numbers)[1]


def prepare_call(neuron: Neuron, ops: TorchOps, params: tuple[Tensor | float, ...], width: int) -> NeuronCall:
    """Trace the neuron, or find what was traced before, and sort its parameters.

    Args:
        neuron: Whose program it is.
        ops: Gives surrogate and slope.
        params: The neuron's parameters in their order: numbers or [N] tensors.
        width: N.
    """
    varying = tuple(isinstance(p, Tensor) for p in params)
    name = serialize_key if torch.compiler.is_compiling() else _key
    numbers = (*[p for p in params if not isinstance(p, Tensor)], ops.slope)
    tensors = [p.expand(width) for p in params if isinstance(p, Tensor)]
    return NeuronCall(name(neuron, ops, varying), numbers, torch.stack(tensors) if tensors else None)


@lru_cache(maxsize=4096)
def resolve_key(key: str, numbers: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """The ``key`` in `PROGRAMS` of a call, and its uniforms by its ``numbers``. Raises `TraceError` where they have none."""
    key = key if key in PROGRAMS else _read(key)
    program = PROGRAMS[key]
    names = [name for name, varies in zip(program.names, program.varying, strict=True) if not varies]
    given = dict(zip((*names, "slope"), numbers, strict=True))
    return key, tuple(program.uniforms(given))


def count_states(key: str) -> int:
    """How many states the neuron of the program ``key`` has."""
    return PROGRAMS[key if key in PROGRAMS else _read(key)].states


def _shape(neuron: Neuron) -> tuple[tuple[str, Any], ...]:
    # a number that is a parameter may still shape the step (a potential of rest, say), so all that was chosen counts
    return tuple(neuron.chosen.items())


def _key(neuron: Neuron, ops: TorchOps, varying: tuple[bool, ...]) -> str:
    options = tuple(ops.surrogate.chosen.items())
    index = (type(neuron), _shape(neuron), type(ops.surrogate), options, varying)
    if index not in _KEYS:
        _KEYS[index] = _register_program(neuron, ops.surrogate, varying)
    return _KEYS[index]


def _register_program(neuron: Neuron, surrogate: Surrogate, varying: tuple[bool, ...]) -> str:
    program = emit.build_program(neuron, surrogate, varying)
    key = f"{type(neuron).__name__}-{hashlib.sha256(program.text.encode()).hexdigest()[:16]}"
    PROGRAMS.setdefault(key, program)
    return key


def serialize_key(neuron: Neuron, ops: TorchOps, varying: tuple[bool, ...]) -> str:
    """A key that says all that a program is made from: ``neuron``, the surrogate of ``ops``, and which parameters are ``varying``.

    For compiled graphs: it is plain Python on plain values, which a compiler can trace and guard, and a graph that was
    exported finds its kernels by it in a process that has never seen the neuron.
    """
    surrogate = ops.surrogate
    kinds = [f"{cls.__module__}:{cls.__qualname__}" for cls in (type(neuron), type(surrogate))]
    options = tuple(surrogate.chosen.items())
    return _literal((kinds[0], _shape(neuron), kinds[1], options, varying))


def _literal(value: object) -> str:
    """As ``repr``, which a compiler cannot trace."""
    # only here: the import is slow, and within a compilation it has been done
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    if isinstance(value, tuple):
        return f"({''.join([f'{_literal(x)},' for x in value])})"
    if isinstance(value, (int, float)):
        value = guard_scalar(value)  # numbers of a module that change become symbols
    return f"{value!r}"


@cache
def _read(words: str) -> str:
    """The key in `PROGRAMS` of a program that is given in words."""
    kind, shape, surrogate_kind, options, varying = ast.literal_eval(words)
    neuron, surrogate = load_component("neurons", kind), load_component("surrogates", surrogate_kind)
    # the slope is an argument of the program
    return _register_program(
        neuron.from_options(**dict(shape)), surrogate.from_options(slope=1.0, **dict(options)), varying
    )


def load_component(room: str, name: str) -> Any:
    """The class of a ``room``'s component, by its module and ``name``, also one whose module is a file."""
    return registry.resolve(room, name.removeprefix(FILE))


@cache
def read_header(name: str) -> str:
    """Text of the C header ``csrc/NAME.h``."""
    return (
        (Path(__file__).parent / "csrc" / f"{name}.h")
        .read_text(encoding="utf-8")
        .replace("#pragma once\n", "")
    )


def source(program: emit.KernelProgram) -> str:
    """The complete text of the kernels of a ``program``: lanes, step, loops; for the GPU where GPU is defined."""
    return "\n".join([read_header("lanes"), read_header("job"), program.text, read_header("loops")])


def count_words(inputs: int) -> int:
    """64-bit words that hold the events of a row of so many ``inputs``."""
    return (inputs + 63) // 64
