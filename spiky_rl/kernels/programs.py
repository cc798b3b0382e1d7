"""From a neuron, its surrogate and its parameters to what a kernel takes: a program, numbers, and one tensor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import emit
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

KNOWN: dict[str, emit.Program] = {}
"""Programs by key: what a registered operator finds its kernel by."""


@dataclass(frozen=True)
class Call:
    """One neuron with its parameters, as a kernel takes it."""

    key: str
    """Of its program, in `KNOWN`."""
    uniforms: tuple[float, ...]
    params: Tensor | None
    """[P, N]: the parameters that differ between neurons; None: there are none."""


def call(neuron: Neuron, ops: TorchOps, params: tuple[Tensor | float, ...], width: int) -> Call:
    """Trace the neuron, or find what was traced before, and sort its parameters."""
    varying = tuple(isinstance(p, Tensor) for p in params)
    key = _key(neuron, ops, varying)
    numbers = {
        name: value
        for name, value in zip(neuron.params, params, strict=True)
        if not isinstance(value, Tensor)
    }
    uniforms = KNOWN[key].uniforms({**numbers, "slope": ops.slope})
    tensors = [p.expand(width) for p in params if isinstance(p, Tensor)]
    return Call(key, tuple(uniforms), torch.stack(tensors) if tensors else None)


_KEYS: dict[tuple[Any, ...], str] = {}


def _key(neuron: Neuron, ops: TorchOps, varying: tuple[bool, ...]) -> str:
    # a number that is a parameter may still shape the step (a potential of rest, say), so all that was chosen counts
    shape = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in neuron.chosen.items())
    surrogate = tuple((k, v) for k, v in vars(ops.surrogate).items() if k not in ("slope", "schedule"))
    index = (type(neuron), shape, type(ops.surrogate), surrogate, varying)
    if index not in _KEYS:
        program = emit.program(neuron, ops.surrogate, varying)
        key = f"{type(neuron).__name__}-{hashlib.sha256(program.text.encode()).hexdigest()[:16]}"
        KNOWN.setdefault(key, program)
        _KEYS[index] = key
    return _KEYS[index]


@cache
def header(name: str) -> str:
    """Text of one of the C headers of this room."""
    return (Path(__file__).parent / f"{name}.h").read_text(encoding="utf-8").replace("#pragma once\n", "")


def source(program: emit.Program) -> str:
    """The complete text of a neuron's kernels: lanes, step, loops; for the GPU where GPU is defined."""
    return "\n".join([header("lanes"), header("job"), program.text, header("loops")])
