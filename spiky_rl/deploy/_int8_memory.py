"""The arrays of a policy in integers: those of its struct, and its constants."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from spiky_rl.deploy._int8_stages import NARROW

SIZES = {"int64_t": 8, "int32_t": 4, "int16_t": 2, "uint16_t": 2, "uint8_t": 1}
"""Bytes of a struct's elements, the largest first, so that nothing lies between its arrays."""


@dataclass(frozen=True)
class Int8Field:
    """An array of the struct."""

    kind: str
    name: str
    size: int
    text: str
    carried: bool = False
    """Whether it belongs to what the policy remembers; else it is room for one control step."""


class Int8Declarations:
    """Declarations of a C file: fields of the policy's struct, and constants."""

    def __init__(self) -> None:
        self.fields: dict[str, Int8Field] = {}
        self.constants: list[str] = []
        """C of constant arrays."""

    @property
    def size(self) -> int:
        """Bytes of the struct, rounded up to what any chip aligns to."""
        return -(-sum(map(_bytes, self.fields.values())) // 8) * 8

    @property
    def carried(self) -> int:
        """Bytes of what may go from one control step to the next."""
        return sum(_bytes(field) for field in self.fields.values() if field.carried)

    @property
    def struct(self) -> str:
        """C of the struct's arrays, the largest elements first."""
        ordered = sorted(self.fields.values(), key=lambda field: -SIZES[field.kind])
        return "\n".join(
            f"  {f.kind} {f.name}[{f.size}];  // {f.text}{'' if f.carried else ' (room)'}" for f in ordered
        )

    def field(self, kind: str, name: str, size: int, text: str, carried: bool = False) -> str:
        """C of an array of the struct, which is as large as its largest use.

        Args:
            kind: C type of its elements.
            name: Name of the array.
            size: Elements that this use needs.
            text: What it holds, for a comment.
            carried: Whether it belongs to what the policy remembers.
        """
        held = self.fields.get(name)
        if held is None or held.size < size:
            self.fields[name] = Int8Field(kind, name, size, text, carried)
        return f"s->{name}"

    def numbers(self, name: str, values: Tensor) -> str:
        """C of one of several integers ``values`` [N]: the number itself where all are equal, else an element of an array ``name``."""
        flat = values.reshape(-1)
        if bool((flat == flat[0]).all()):
            return str(int(flat[0]))
        return f"{self.add(name, flat)}[n]"

    def weight(self, name: str, values: Tensor) -> str:
        """The ``name`` of a matrix with these ``values``, [C, N]."""
        return self.add(name, values, "int8_t")

    def add(self, name: str, values: Tensor, kind: str = "") -> str:
        """The ``name`` of a constant array of ``values``, of ``kind`` as for `integer_array`; it is declared once."""
        text = integer_array(name, values.reshape(-1), kind)
        if text not in self.constants:
            self.constants.append(text)
        return name


def integer_array(name: str, values: Tensor, kind: str = "") -> str:
    """C of a constant array.

    Args:
        name: Name of the array.
        values: Its integers, [numbers].
        kind: C type of its elements; empty: the smallest that holds all.
    """
    most = int(values.abs().max())
    kind = kind or next(
        k for k, limit in (("int8_t", 127), ("int16_t", NARROW), ("int32_t", 2**31 - 1)) if most <= limit
    )
    rows = [", ".join(map(str, row)) for row in itertools.batched(values.tolist(), 24)]
    return f"static const {kind} {name}[{values.numel()}] = {{\n  " + ",\n  ".join(rows) + "};"


def _bytes(field: Int8Field) -> int:
    return SIZES[field.kind] * field.size
