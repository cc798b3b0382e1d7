"""Constant arrays of ``policy.c``: their names, and their numbers as C."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container

import numpy as np
import torch
from torch import Tensor

from spiky_rl.deploy._int8_memory import integer_array
from spiky_rl.deploy._program import ExportError, Value

PREFIX = "c_"
"""Beginning of the names of arrays."""
MOST = 56
"""Characters of a path that a name has at most."""


class Constants:
    """Arrays by name; equal ones of one origin are one."""

    def __init__(self) -> None:
        self.arrays: dict[str, Tensor] = {}
        self._names: dict[tuple[str, torch.dtype, bytes], str] = {}

    def add(self, value: Value, numbers: Tensor, part: str = "") -> str:
        """Declare an array of ``numbers``; return its name, which says where they come from.

        Args:
            value: The constant that the numbers are.
            numbers: All that is read of it.
            part: Which part of it they are; empty: all of it.
        """
        path = ".".join(filter(None, [value.name, value.operation, part]))
        key = path, numbers.dtype, numbers.cpu().numpy().tobytes()
        if key not in self._names:
            name = self._names[key] = unused(path, self.arrays)
            self.arrays[name] = numbers
        return self._names[key]

    @property
    def text(self) -> list[str]:
        """C of all of them."""
        return [format_array(name, numbers) for name, numbers in self.arrays.items()]


def unused(path: str, taken: Container[str]) -> str:
    """Return a name in C for what lies at a dotted ``path``, one that is not ``taken``.

    All of them begin alike, and so none is a keyword, a function of a library or a name of the policy's own. They differ within
    the 63 characters that every compiler of C99 tells apart.
    """
    words = re.sub("[^A-Za-z0-9]+", "_", path)
    kept = words[-MOST:] if len(words) <= MOST else words[-MOST:].partition("_")[2] or words[-MOST:]
    first = f"{PREFIX}{kept}"
    others = (f"{first}_{i}" for i in itertools.count(2))
    return next(name for name in itertools.chain([first], others) if name not in taken)


def format_array(name: str, numbers: Tensor) -> str:
    """C of a constant array ``name`` with exactly these ``numbers``, as floats; integers, none below 0, as the smallest that holds them."""
    if not numbers.is_floating_point():
        kinds = (("uint8_t", 8), ("uint16_t", 16), ("int32_t", 31))
        return integer_array(name, numbers, next(k for k, bits in kinds if int(numbers.max()) < 2**bits))
    values = numbers.float().reshape(-1).numpy()
    texts = (_number(x) for x in values)
    rows = [", ".join(row) for row in itertools.batched(texts, 12)]
    return f"static const float {name}[{len(values)}] = {{\n  " + ",\n  ".join(rows) + "};"


def _number(x: np.float32) -> str:
    if not np.isfinite(x):
        raise ExportError(f"a weight is {x}, which no C constant says")
    text = (
        np.format_float_scientific(x, unique=True, trim="0")
        if 0 < abs(x) < 1e-4 or abs(x) >= 1e7
        else np.format_float_positional(x, unique=True, trim="0")
    )
    return f"{text}f"
