"""The arrays of a policy's struct, and which value lies in which of them."""

from __future__ import annotations

import math

from spiky_rl.deploy._program import (
    ExportProgram,
    Index,
    Value,
    ValueView,
    count_elements,
    drop_unit_axes,
    format_flat_index,
    get_storage,
    indices,
)


class StructFields:
    """Arrays of the struct: values that are never needed at the same time share one."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.parts: dict[int, tuple[Value, int]] = {}
        """Values that lie in a join's array from the beginning, and where."""
        self.free: dict[int, list[str]] = {}

    def element(self, value: Value, index: Index) -> str:
        """C of the element of a ``value`` in the struct at an ``index``."""
        whole, start = self.parts.get(id(get_storage(value)), (get_storage(value), 0))
        place = format_flat_index(value.shape, index)
        return f"s->{self.names[id(whole)]}[{format_offset(place, start)}]"

    def allocate(self, value: Value) -> None:
        """Give a ``value`` an array."""
        size = count_elements(value.shape)
        free = self.free.setdefault(size, [])
        name = free.pop() if free else f"a{len(self.sizes)}"
        self.sizes[name] = size
        self.names[id(value)] = name

    def release(self, value: Value) -> None:
        """Let another value have the array of a ``value`` that nothing reads any more."""
        self.free[count_elements(value.shape)].append(self.names[id(value)])


def fields_of(program: ExportProgram) -> StructFields:
    """The arrays that a ``program`` needs, each for as long as something reads it."""
    last: dict[int, int] = {}
    for i, loop in enumerate(program.loops):
        for x in (x for value in loop.values for x in value.operands):
            if isinstance(x, ValueView):
                last[id(get_storage(x.value))] = i
    for view in program.outputs.values():
        last[id(get_storage(view.value))] = len(program.loops)
    fields = StructFields()
    for loop in program.loops:
        _place_parts(fields, loop.values[0])
    for i, loop in enumerate(program.loops):
        for value in loop.values:
            if id(value) in fields.parts:
                whole = fields.parts[id(value)][0]
                last[id(whole)] = max(last[id(whole)], last[id(value)], i)
    held: list[Value] = []
    for i, loop in enumerate(program.loops):
        for value in loop.values:
            whole = fields.parts.get(id(value), (value, 0))[0]
            if (value.stored or not loop.pointwise) and id(whole) not in fields.names:
                fields.allocate(whole)
                held.append(whole)
        done = [value for value in held if last.get(id(value), i) <= i]
        for value in done:
            fields.release(value)
        held = [value for value in held if value not in done]
    return fields


def _place_parts(fields: StructFields, join: Value) -> None:
    """Let what a join puts one after the other be computed where it belongs, if it is computed at all and only joined here."""
    if join.kind != "join" or math.prod(join.shape[: join.settings["axis"]]) != 1:
        return
    start, stride = 0, math.prod(join.shape[join.settings["axis"] + 1 :])
    for part in join.operands:
        assert isinstance(part, ValueView)
        value, variables = part.value, [f"i{axis}" for axis in range(len(drop_unit_axes(part.shape)))]
        whole = drop_unit_axes(value.shape) == drop_unit_axes(part.shape) and part.indices(
            indices(part.shape, variables)
        ) == indices(value.shape, variables)
        if (
            whole
            and value.kind not in ("input", "constant", "join")
            and get_storage(value) is value
            and id(value) not in fields.parts
        ):
            fields.parts[id(value)] = join, start * stride
        start += part.shape[join.settings["axis"]]


def format_offset(term: str, number: int) -> str:
    """C of an index, a ``term``, moved by a ``number`` of elements."""
    if term.isdigit():
        return str(int(term) + number)
    return f"{term} + {number}" if number else term
