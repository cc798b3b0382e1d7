"""One control step of a policy as a list of loops: what `torch.export` finds in it, without views, copies and checks.

A `Value` is an array with a shape. Pointwise values that run over the same elements and need nothing else of each other
stand in one `Loop`, so a layer's inner steps are one pass over its neurons. Values that later loops read are `stored`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spiky_rl.config.registry import UserError

if TYPE_CHECKING:
    from torch import Tensor

type Index = tuple[str, ...]
"""C expressions, one per axis; ``0`` along an axis of one element."""


class ExportError(UserError):
    """A policy that a target cannot express."""


@dataclass(eq=False)
class Value:
    """An array of one control step."""

    name: str
    """Name in C; of a constant, the dotted path of its origin."""
    kind: str
    """input, constant, pointwise, product, convolution, pool, reduction, or join: several one after the other along an axis."""
    shape: tuple[int, ...]
    operation: str = ""
    operands: tuple[View | float | int | None, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    data: Tensor | None = None
    """A constant's numbers."""
    boolean: bool = False
    binary: bool = False
    """Whether its elements are 0 or 1."""
    stored: bool = False
    """Whether a later loop reads it."""
    place: str = ""
    """Dotted path of the module that it belongs to."""


@dataclass(frozen=True)
class View:
    """A value as it is read: under another shape and other indices."""

    value: Value
    shape: tuple[int, ...]
    at: Callable[[Index], Index]
    """An index of this view to the value's own."""


@dataclass
class Loop:
    """Values that are computed one after the other for each element; a product, reduction, convolution or join stands alone."""

    values: list[Value]

    @property
    def pointwise(self) -> bool:
        """Whether it runs over elements."""
        return self.values[0].kind == "pointwise"

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes of the dimensions that it runs over."""
        return extents(self.values[0].shape)


@dataclass(frozen=True)
class Program:
    """A control step: inputs, loops in their order, and outputs, each with the names that the module has for them."""

    inputs: dict[str, Value]
    loops: tuple[Loop, ...]
    outputs: dict[str, View]


def extents(shape: Sequence[int]) -> tuple[int, ...]:
    """A ``shape`` without its axes of one element."""
    return tuple(size for size in shape if size != 1)


def indices(shape: Sequence[int], variables: Sequence[str]) -> Index:
    """A whole index into a ``shape`` from the ``variables`` of the axes that have more than one element."""
    remaining = iter(variables)
    return tuple("0" if size == 1 else next(remaining) for size in shape)


def flat(shape: Sequence[int], index: Index) -> str:
    """C of the place of an ``index`` into a ``shape`` in memory, row-major."""
    parts, stride = [], 1
    for size, term in zip(reversed(shape), reversed(index), strict=True):
        if term != "0":
            parts.append(
                str(int(term) * stride)
                if term.isdigit()
                else term if stride == 1 else f"{wrapped(term)} * {stride}"
            )
        stride *= size
    constant = sum(int(part) for part in parts if part.isdigit())
    terms = [part for part in reversed(parts) if not part.isdigit()]
    return " + ".join([*terms, *([str(constant)] if constant or not terms else [])])


def wrapped(term: str) -> str:
    """A ``term`` in parentheses where it is more than a name or a number."""
    return f"({term})" if any(sign in term for sign in "+-*/%") else term


def needed(values: Sequence[Value], outputs: Sequence[View]) -> list[Value]:
    """Those of the ``values`` on which the ``outputs`` depend."""
    reached, waiting = set(), [memory(view.value) for view in outputs]
    while waiting:
        value = waiting.pop()
        if id(value) not in reached:
            reached.add(id(value))
            waiting += [memory(x.value) for x in value.operands if isinstance(x, View)]
    return [value for value in values if id(value) in reached]


def grouped(values: Sequence[Value]) -> list[Loop]:
    """The ``values`` in loops; marks those that another loop than their own reads."""
    loops: list[Loop] = []
    for value in values:
        last = loops[-1] if loops else None
        if (
            value.kind == "pointwise"
            and last is not None
            and last.pointwise
            and last.extents == extents(value.shape)
        ):
            inside = {id(member) for member in last.values}
            if all(
                same_element(value, x)
                for x in value.operands
                if isinstance(x, View) and id(memory(x.value)) in inside
            ):
                last.values.append(value)
                continue
        loops.append(Loop([value]))
    where = {id(value): i for i, loop in enumerate(loops) for value in loop.values}
    for i, loop in enumerate(loops):
        for value in loop.values:
            for x in value.operands:
                if isinstance(x, View) and where.get(id(memory(x.value)), i) != i:
                    memory(x.value).stored = True
    return loops


def memory(value: Value) -> Value:
    """Whose memory a ``value`` lies in."""
    return value.settings.get("memory", value)


def same_element(value: Value, x: View) -> bool:
    """Whether computing an element of a ``value`` takes the same element of its operand ``x``."""
    if extents(x.value.shape) != extents(value.shape):
        return False
    variables = letters(value.shape)
    return element(value, x, variables) == indices(x.value.shape, variables)


def element(value: Value, x: View, variables: Sequence[str]) -> Index:
    """The index into what an operand looks at for an element of a pointwise value, broadcast as torch does.

    Args:
        value: That is computed.
        x: The operand.
        variables: Variables of the loops over the value's elements.
    """
    whole = indices(value.shape, variables)[len(value.shape) - len(x.shape) :]
    return x.at(tuple("0" if size == 1 else term for size, term in zip(x.shape, whole, strict=True)))


def letters(shape: Sequence[int]) -> list[str]:
    """Names of the loop variables over a ``shape``."""
    return [f"i{axis}" for axis in range(len(extents(shape)))]


def count(shape: Sequence[int]) -> int:
    """Elements of an array of that ``shape``."""
    return math.prod(shape)
