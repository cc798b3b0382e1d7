"""Arrays of a policy in integers: the fields of its struct, and its constants."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from spiky_rl.deploy._int8_stages import NARROW_LIMIT

SIZES = {"int64_t": 8, "int32_t": 4, "int16_t": 2, "uint16_t": 2, "uint8_t": 1}
"""Bytes of an element, by C type."""


@dataclass(frozen=True)
class Int8Field:
    """An array of the struct."""

    kind: str
    name: str
    size: int
    text: str
    carried: bool = False
    """Whether it is state that is kept between control steps; else scratch memory of one step."""


class Int8Declarations:
    """Declarations of a C file: struct fields and constants."""

    def __init__(self) -> None:
        self.fields: dict[str, Int8Field] = {}
        self.constants: list[str] = []
        """Declarations of constant arrays."""

    @property
    def size(self) -> int:
        """Bytes of the struct, rounded up to the alignment of 8."""
        return -(-sum(map(_bytes, self.fields.values())) // 8) * 8

    @property
    def carried(self) -> int:
        """Bytes of the state."""
        return sum(_bytes(field) for field in self.fields.values() if field.carried)

    @property
    def struct(self) -> str:
        """Declarations of the struct's arrays, the largest elements first, so that no padding lies between them."""
        ordered = sorted(self.fields.values(), key=lambda field: -SIZES[field.kind])
        return "\n".join(
            f"  {f.kind} {f.name}[{f.size}];  // {f.text}{'' if f.carried else ' (scratch)'}" for f in ordered
        )

    def add_field(self, kind: str, name: str, size: int, text: str, carried: bool = False) -> str:
        """Declare an array of the struct and return its C expression. The size of the array is that of its largest use.

        Args:
            kind: C type of its elements.
            size: Number of elements that this use needs.
            text: Description of its content, for a comment.
            carried: Whether it is state that is kept between control steps.
        """
        held = self.fields.get(name)
        if held is None or held.size < size:
            self.fields[name] = Int8Field(kind, name, size, text, carried)
        return f"s->{name}"

    def add_values(self, name: str, values: Tensor) -> str:
        """Return the C expression of element n of the integers ``values`` [N]: a number if all are equal, else of an array ``name``."""
        flat = values.reshape(-1)
        if bool((flat == flat[0]).all()):
            return str(int(flat[0]))
        return f"{self.add(name, flat)}[n]"

    def add_weight(self, name: str, values: Tensor) -> str:
        """Declare the matrix ``values`` [C, N] and return its ``name``."""
        return self.add(name, values, "int8_t")

    def add(self, name: str, values: Tensor, kind: str = "") -> str:
        """Declare a constant array, once, and return its ``name``; ``kind`` as for `format_integer_array`."""
        text = format_integer_array(name, values.reshape(-1), kind)
        if text not in self.constants:
            self.constants.append(text)
        return name


def format_integer_array(name: str, values: Tensor, kind: str = "") -> str:
    """Return the C declaration of a constant array.

    Args:
        values: Integers, one axis.
        kind: C type of the elements; empty for the smallest type that holds all.
    """
    most = int(values.abs().max())
    kind = kind or next(
        k
        for k, limit in (("int8_t", 127), ("int16_t", NARROW_LIMIT), ("int32_t", 2**31 - 1))
        if most <= limit
    )
    rows = [", ".join(map(str, row)) for row in itertools.batched(values.tolist(), 24)]
    return f"static const {kind} {name}[{values.numel()}] = {{\n  " + ",\n  ".join(rows) + "};"


def _bytes(field: Int8Field) -> int:
    return SIZES[field.kind] * field.size
