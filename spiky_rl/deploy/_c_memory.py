"""The arrays of a policy's struct, and which value lies in which of them."""

from __future__ import annotations

import math

from spiky_rl.deploy._program import Index, Program, Value, View, count, extents, flat, indices, memory


class Fields:
    """Arrays of the struct: values that are never needed at the same time share one."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.parts: dict[int, tuple[Value, int]] = {}
        """Values that lie in a join's array from the beginning, and where."""
        self.free: dict[int, list[str]] = {}

    def element(self, value: Value, index: Index) -> str:
        """C of the element of a ``value`` in the struct at an ``index``."""
        whole, start = self.parts.get(id(memory(value)), (memory(value), 0))
        place = flat(value.shape, index)
        return f"s->{self.names[id(whole)]}[{plus(place, start)}]"

    def take(self, value: Value) -> None:
        """Give a ``value`` an array."""
        size = count(value.shape)
        free = self.free.setdefault(size, [])
        name = free.pop() if free else f"a{len(self.sizes)}"
        self.sizes[name] = size
        self.names[id(value)] = name

    def give_back(self, value: Value) -> None:
        """Let another value have the array of a ``value`` that nothing reads any more."""
        self.free[count(value.shape)].append(self.names[id(value)])


def fields_of(program: Program) -> Fields:
    """The arrays that a ``program`` needs, each for as long as something reads it."""
    last: dict[int, int] = {}
    for i, loop in enumerate(program.loops):
        for x in (x for value in loop.values for x in value.operands):
            if isinstance(x, View):
                last[id(memory(x.value))] = i
    for view in program.outputs.values():
        last[id(memory(view.value))] = len(program.loops)
    fields = Fields()
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
                fields.take(whole)
                held.append(whole)
        done = [value for value in held if last.get(id(value), i) <= i]
        for value in done:
            fields.give_back(value)
        held = [value for value in held if value not in done]
    return fields


def _place_parts(fields: Fields, join: Value) -> None:
    """Let what a join puts one after the other be computed where it belongs, if it is computed at all and only joined here."""
    if join.kind != "join" or math.prod(join.shape[: join.settings["axis"]]) != 1:
        return
    start, stride = 0, math.prod(join.shape[join.settings["axis"] + 1 :])
    for part in join.operands:
        assert isinstance(part, View)
        value, variables = part.value, [f"i{axis}" for axis in range(len(extents(part.shape)))]
        whole = extents(value.shape) == extents(part.shape) and part.at(
            indices(part.shape, variables)
        ) == indices(value.shape, variables)
        if (
            whole
            and value.kind not in ("input", "constant", "join")
            and memory(value) is value
            and id(value) not in fields.parts
        ):
            fields.parts[id(value)] = join, start * stride
        start += part.shape[join.settings["axis"]]


def plus(term: str, number: int) -> str:
    """C of an index, a ``term``, moved by a ``number`` of elements."""
    if term.isdigit():
        return str(int(term) + number)
    return f"{term} + {number}" if number else term
