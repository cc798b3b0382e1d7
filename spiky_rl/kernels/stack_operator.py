"""A compiled torch operator that runs a `LayerStack` in trainings with small batches.

There the Python between autograd and the kernels takes longer than the kernels. The operator calls the same kernels, so the bits are the
same. Compiling torch's headers takes some 20 seconds, which pays only in long trainings. So Python runs the first calls.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.errors import UserError
from spiky_rl.kernels import compiler, operators, programs
from spiky_rl.kernels.structures import LayerStruct

log = logging.getLogger(__name__)

MAX_SAMPLES = 1024
"""Largest batch of a call for which the operator is used; in larger ones Python's share is small."""
CALLS = 10_000
"""Number of such calls in a process before the operator is compiled or loaded."""

_calls = Counter[str]()
_loading = threading.Lock()
"""Held by the thread that loads the operator, which torch registers only once."""


class PlanStruct(ctypes.Structure):
    """``Plan`` of `stack_operator.cpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("layers", "signals", "currents", "forward", "backward", "count_events")
        ),
        *((name, ctypes.c_long) for name in ("count", "T", "inner", "K", "B", "width", "memory")),
        *((name, ctypes.c_int) for name in ("counted", "bfloat16", "has_openmp")),
    ]


def find_operator(samples: int) -> Callable[..., list[Tensor]] | None:
    """Return the operator for a call with this many ``samples``.

    Returns None for more than `MAX_SAMPLES`, in the first `CALLS` calls, and if the operator cannot be compiled.
    """
    if samples > MAX_SAMPLES:
        return None
    if _calls["small"] < CALLS:
        _calls["small"] += 1
        return None
    return load_operator()


def use_operator() -> None:
    """Use the operator from the next call on, as a training does after `CALLS` calls."""
    _calls["small"] = CALLS


def load_operator() -> Callable[..., list[Tensor]] | None:
    """Compile or load the operator, and return it; None if that fails, with the reason in the log."""
    with _loading:
        return _load_once()


@cache
def _load_once() -> Callable[..., list[Tensor]] | None:
    try:
        _compile().spiky_register()
    except (UserError, OSError) as error:
        log.info("small batches run without the compiled operator, some 0.1 ms slower per update: %s", error)
        return None
    return torch.ops.spiky_rl.run_stack.default


def _compile() -> ctypes.CDLL:
    folder = Path(torch.__file__).parent
    headers = ("lanes", "job", "events", "bfloat16", "recurrent", "layers")
    text = "\n".join(
        [
            f"// torch {torch.__version__}",  # a cache entry is of one version
            "#include <ATen/ATen.h>",
            "#include <ATen/Parallel.h>",
            "#include <torch/csrc/autograd/custom_function.h>",
            "#include <torch/library.h>",
            f'static const char *const NO_SECOND_DERIVATIVE = "{operators.NO_SECOND_DERIVATIVE}";',
            *map(programs.read_header, headers),
            (Path(__file__).parent / "csrc" / "stack_operator.cpp").read_text(encoding="utf-8"),
        ]
    )
    flags = (
        *("-std=c++20", "-O1"),
        f"-I{folder / 'include'}",
        f"-I{folder / 'include/torch/csrc/api/include'}",
        f"-L{folder / 'lib'}",
        *("-ltorch_cpu", "-lc10"),
    )
    return compiler.compile_library(text, "stacks in small batches", flags, "some 20 seconds")


def make_plan(
    core: ctypes.CDLL,
    calls: Sequence[programs.NeuronCall],
    layers: Sequence[LayerStruct],
    places: Sequence[tuple[int | None, int | None]],
    sizes: PlanStruct,
) -> Tensor:
    """Return the plan of a call: a tensor of bytes that autograd keeps as long as it may run backward.

    Args:
        core: The compiled kernels that do not depend on a neuron.
        calls: The calls of its neurons.
        layers: Copies of a template's structures, with an address of the bias, any, if it has one.
        places: Offsets of each layer's input and current in the memory of a forward pass; None if it is not kept.
        sizes: A structure with the fields that are numbers, but for ``count``.
    """
    numbers = [call.uniforms for call in calls]
    kind = _make_content_type(tuple(map(len, numbers)))
    tensor = torch.zeros(ctypes.sizeof(kind), dtype=torch.uint8, device="cpu")
    content: Any = kind.from_address(tensor.data_ptr())
    for i, (layer, values, (signal, current)) in enumerate(zip(layers, numbers, places, strict=True)):
        content.layers[i] = layer
        own_numbers = getattr(content, f"numbers{i}")
        own_numbers[: len(values)] = values
        content.layers[i].uniforms = ctypes.addressof(own_numbers)
        content.signals[i] = -1 if signal is None else signal
        content.currents[i] = -1 if current is None else current
    content.plan = sizes
    plan = content.plan
    plan.count = len(layers)
    for name in ("layers", "signals", "currents"):
        setattr(plan, name, ctypes.addressof(getattr(content, name)))
    kernels = (core.spiky_stack_forward, core.spiky_stack_backward, core.spiky_count)
    for name, kernel in zip(("forward", "backward", "count_events"), kernels, strict=True):
        setattr(plan, name, ctypes.cast(kernel, ctypes.c_void_p).value)
    return tensor


@cache
def _make_content_type(lengths: tuple[int, ...]) -> Any:
    """Return the structure of a plan's content; ``lengths`` are the counts of the layers' numbers."""
    fields = [
        ("plan", PlanStruct),
        ("layers", LayerStruct * len(lengths)),
        *((name, ctypes.c_long * len(lengths)) for name in ("signals", "currents")),
        *((f"numbers{i}", ctypes.c_float * max(1, length)) for i, length in enumerate(lengths)),
    ]
    return type("_Content", (ctypes.Structure,), {"_fields_": fields})
