"""The arrays of a policy's struct, and the assignment of values to them."""

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
    make_index,
)


class StructFields:
    """Arrays of the struct. Values that are never needed at the same time share an array."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.parts: dict[int, tuple[Value, int]] = {}
        """Values that are computed in place in the array of a join: the join and the offset, by id."""
        self.free: dict[int, list[str]] = {}

    def format_element(self, value: Value, index: Index) -> str:
        """Return the C expression of the element of ``value`` at ``index``."""
        whole, start = self.parts.get(id(get_storage(value)), (get_storage(value), 0))
        place = format_flat_index(value.shape, index)
        return f"s->{self.names[id(whole)]}[{format_offset(place, start)}]"

    def allocate(self, value: Value) -> None:
        """Assign an array to ``value``."""
        size = count_elements(value.shape)
        free = self.free.setdefault(size, [])
        name = free.pop() if free else f"a{len(self.sizes)}"
        self.sizes[name] = size
        self.names[id(value)] = name

    def release(self, value: Value) -> None:
        """Free the array of ``value`` for other values."""
        self.free[count_elements(value.shape)].append(self.names[id(value)])


def allocate_fields(program: ExportProgram) -> StructFields:
    """Assign arrays to the stored values of ``program``, each until its last read."""
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
    """Place the parts of a ``join`` in its array, if they are computed values that no other join reads."""
    if join.kind != "join" or math.prod(join.shape[: join.settings["axis"]]) != 1:
        return
    start, stride = 0, math.prod(join.shape[join.settings["axis"] + 1 :])
    for part in join.operands:
        assert isinstance(part, ValueView)
        value, variables = part.value, [f"i{axis}" for axis in range(len(drop_unit_axes(part.shape)))]
        whole = drop_unit_axes(value.shape) == drop_unit_axes(part.shape) and part.indices(
            make_index(part.shape, variables)
        ) == make_index(value.shape, variables)
        if (
            whole
            and value.kind not in ("input", "constant", "join")
            and get_storage(value) is value
            and id(value) not in fields.parts
        ):
            fields.parts[id(value)] = join, start * stride
        start += part.shape[join.settings["axis"]]


def format_offset(term: str, number: int) -> str:
    """Return the C expression of the index ``term`` plus ``number``."""
    if term.isdigit():
        return str(int(term) + number)
    return f"{term} + {number}" if number else term
