"""Declarations of a policy in C: arrays of its struct, constants, and the helper functions that it calls."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spiky_rl.deploy._c_functions import DEPENDENCIES, FUNCTIONS, MATH_FUNCTIONS
from spiky_rl.deploy.base import ExportError
from spiky_rl.kernels.emit import format_literal

SIZES = {"int64_t": 8, "int32_t": 4, "float": 4, "int16_t": 2, "uint16_t": 2, "uint8_t": 1, "int8_t": 1}
"""Bytes of an element, by C type."""
INTEGERS = (
    ("int8_t", -127, 127),
    ("uint8_t", 0, 2**8 - 1),
    ("int16_t", 1 - 2**15, 2**15 - 1),
    ("uint16_t", 0, 2**16 - 1),
    ("int32_t", 1 - 2**31, 2**31 - 1),
)
"""C types of constants, the smallest first, with their ranges."""


@dataclass(frozen=True)
class StructField:
    """An array of the struct."""

    kind: str
    name: str
    size: int
    text: str
    carried: bool
    """Whether it is state that is kept between control steps; else it is scratch memory of one step."""
    is_output: bool = False
    """Whether it is a result of a control step for the caller."""


class Declarations:
    """Struct fields, constants and helper functions of a C file."""

    def __init__(self) -> None:
        self.fields: dict[str, StructField] = {}
        self.constants: dict[str, str] = {}
        """Declarations of constant arrays by name."""
        self.functions: dict[str, None] = {}
        self.constant_bytes = 0
        self.channels = 1
        """Largest number of channels whose events are listed."""

    @property
    def index_type(self) -> str:
        """C type of ``event_index``."""
        return "uint16_t" if self.channels < 2**16 else "int32_t"

    @property
    def size(self) -> int:
        """Bytes of the struct, rounded up to the alignment of its largest elements."""
        align = max(SIZES[self.resolve(field)] for field in self.fields.values())
        return -(-sum(map(self.count_bytes, self.fields.values())) // align) * align

    @property
    def state_fields(self) -> list[StructField]:
        """Arrays of the struct that are kept between control steps."""
        return [field for field in self.fields.values() if field.carried]

    @property
    def state_bytes(self) -> int:
        """Bytes that one control step leaves to the next."""
        return sum(map(self.count_bytes, self.state_fields))

    @property
    def struct(self) -> str:
        """Declarations of the struct's arrays, the largest elements first, so that no padding lies between them."""
        ordered = sorted(
            self.fields.values(), key=lambda field: (-SIZES[self.resolve(field)], not field.carried)
        )
        return "\n".join(
            f"  {self.resolve(f)} {f.name}[{f.size}];  // {f.text}{'' if f.carried or f.is_output else ' (scratch)'}"
            for f in ordered
        )

    @property
    def helpers(self) -> str:
        """Text of the helper functions, in the order in which C needs them."""
        return "\n".join(text for name, text in FUNCTIONS.items() if name in self.functions)

    @property
    def needs_math(self) -> bool:
        """Whether the file needs <math.h>."""
        return bool(self.functions.keys() & MATH_FUNCTIONS)

    def resolve(self, field: StructField) -> str:
        """Return the C type of a ``field``'s elements in the header."""
        return self.index_type if field.kind == "event_index" else field.kind

    def count_bytes(self, field: StructField) -> int:
        """Return the bytes of a ``field``."""
        return SIZES[self.resolve(field)] * field.size

    def add_scratch(self, name: str, size: int, text: str, kind: str = "float") -> str:
        """Declare an array of the struct that is used within one control step, and return its C expression.

        Args:
            name: Name of the array.
            size: Number of elements that this use needs; the array has the size of its largest use.
            text: Description of its content, for a comment.
            kind: C type of its elements.
        """
        return self._add_field(StructField(kind, name, size, text, carried=False))

    def add_state(self, name: str, size: int, text: str, kind: str = "float") -> str:
        """Declare an array of the struct that is kept between control steps; see `add_scratch`."""
        return self._add_field(StructField(kind, name, size, text, carried=True))

    def add_output(self, name: str, size: int, text: str) -> str:
        """Declare an array of the struct that is a result of a control step for the caller; see `add_scratch`."""
        return self._add_field(StructField("float", name, size, text, carried=False, is_output=True))

    def _add_field(self, field: StructField) -> str:
        known = self.fields.get(field.name)
        if known is None or known.size < field.size:
            self.fields[field.name] = field
        return f"s->{field.name}"

    def add_constant(self, name: str, values: Tensor, kind: str = "") -> str:
        """Declare a constant array of ``values``, once, and return its ``name``.

        Args:
            name: Name of the array.
            values: Floats, which keep their exact value, or integers; flattened.
            kind: C type of the elements of integers; empty for the smallest type that holds all.
        """
        if name not in self.constants:
            flat = values.detach().cpu().reshape(-1)
            text = (
                format_floats(name, flat) if flat.is_floating_point() else _format_integers(name, flat, kind)
            )
            self.constants[name] = text
            self.constant_bytes += flat.numel() * SIZES[text.split()[2]]
        return name

    def format_element(self, name: str, values: Tensor, index: str = "n") -> str:
        """Return the C expression of element ``index`` of ``values``: a number if all are equal, else of the constant ``name``."""
        flat = values.detach().cpu().reshape(-1)
        if bool((flat == flat[0]).all()):
            return (
                format_literal(_check_finite(float(flat[0])))
                if flat.is_floating_point()
                else str(int(flat[0]))
            )
        return f"{self.add_constant(name, flat)}[{index}]"

    def use_function(self, name: str) -> str:
        """Add the helper function ``name`` of `FUNCTIONS` to the file and return its name."""
        for needed in (*DEPENDENCIES.get(name, ()), name):
            if needed not in self.functions:
                self.functions[needed] = None
                self.use_function(needed)
        return name


def format_floats(name: str, values: Tensor) -> str:
    """Return the C declaration of a constant array of floats, [N], with their exact values."""
    numbers = (_format_number(x) for x in values.float().numpy())
    return _format_array("float", name, list(numbers), 12)


def _format_integers(name: str, values: Tensor, kind: str) -> str:
    low, high = int(values.min()), int(values.max())
    kind = kind or next(k for k, least, most in INTEGERS if least <= low and high <= most)
    return _format_array(kind, name, [str(x) for x in values.tolist()], 24)


def _format_array(kind: str, name: str, numbers: list[str], columns: int) -> str:
    rows = [", ".join(row) for row in itertools.batched(numbers, columns)]
    return f"static const {kind} {name}[{len(numbers)}] = {{\n  " + ",\n  ".join(rows) + "};"


def _format_number(x: np.float32) -> str:
    _check_finite(x)
    if 0 < abs(x) < 1e-4 or abs(x) >= 1e7:
        return f"{np.format_float_scientific(x, unique=True, trim='0')}f"
    return f"{np.format_float_positional(x, unique=True, trim='0')}f"


def _check_finite[Number: (float, np.float32)](x: Number) -> Number:
    if not np.isfinite(x):
        raise ExportError(f"a weight is {x}; weights must be finite")
    return x


def split_synapses(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lists of synapses of ``weight`` [C, N]: values, neurons, and the start of each input's list [C + 1]."""
    there = weight != 0
    ends = there.sum(1).cumsum(0)
    return weight[there], there.nonzero()[:, 1], torch.cat([ends.new_zeros(1), ends])
