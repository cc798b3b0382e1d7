"""Constant arrays of ``policy.c``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container

import numpy as np
import torch
from torch import Tensor

from spiky_rl.deploy._int8_memory import format_integer_array
from spiky_rl.deploy._program import ExportError, Value

PREFIX = "c_"
"""Prefix of array names."""
MAX_NAME = 56
"""Largest number of a path's characters in a name."""


class Constants:
    """Arrays by name. Equal arrays of one origin are stored once."""

    def __init__(self) -> None:
        self.arrays: dict[str, Tensor] = {}
        self._names: dict[tuple[str, torch.dtype, bytes], str] = {}

    def add(self, value: Value, numbers: Tensor, part: str = "") -> str:
        """Declare an array of ``numbers`` and return its name, which is made from their origin.

        Args:
            value: The constant.
            numbers: Its elements that are read.
            part: Name of this part of the constant; empty for the whole.
        """
        path = ".".join(filter(None, [value.name, value.operation, part]))
        key = path, numbers.dtype, numbers.cpu().numpy().tobytes()
        if key not in self._names:
            name = self._names[key] = make_name(path, self.arrays)
            self.arrays[name] = numbers
        return self._names[key]

    @property
    def text(self) -> list[str]:
        """Declarations of the arrays in C."""
        return [format_array(name, numbers) for name, numbers in self.arrays.items()]


def make_name(path: str, taken: Container[str]) -> str:
    """Return a C name for the dotted ``path`` that is not in ``taken``.

    The prefix keeps names apart from keywords, library functions and other names of the file. Names differ within the 63
    characters that every C99 compiler distinguishes.
    """
    words = re.sub("[^A-Za-z0-9]+", "_", path)
    kept = (
        words[-MAX_NAME:]
        if len(words) <= MAX_NAME
        else words[-MAX_NAME:].partition("_")[2] or words[-MAX_NAME:]
    )
    first = f"{PREFIX}{kept}"
    others = (f"{first}_{i}" for i in itertools.count(2))
    return next(name for name in itertools.chain([first], others) if name not in taken)


def format_array(name: str, numbers: Tensor) -> str:
    """Return the C declaration of a constant array.

    Floats keep their exact value; integers, which must not be negative, get the smallest type that holds them.
    """
    if not numbers.is_floating_point():
        kinds = (("uint8_t", 8), ("uint16_t", 16), ("int32_t", 31))
        return format_integer_array(
            name, numbers, next(k for k, bits in kinds if int(numbers.max()) < 2**bits)
        )
    values = numbers.float().reshape(-1).numpy()
    texts = (_format_number(x) for x in values)
    rows = [", ".join(row) for row in itertools.batched(texts, 12)]
    return f"static const float {name}[{len(values)}] = {{\n  " + ",\n  ".join(rows) + "};"


def _format_number(x: np.float32) -> str:
    if not np.isfinite(x):
        raise ExportError(f"a weight is {x}; weights must be finite")
    text = (
        np.format_float_scientific(x, unique=True, trim="0")
        if 0 < abs(x) < 1e-4 or abs(x) >= 1e7
        else np.format_float_positional(x, unique=True, trim="0")
    )
    return f"{text}f"
