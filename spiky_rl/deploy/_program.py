"""Intermediate representation of a control step: a list of loops, made from the graph of `torch.export`.

A `Value` is an array; views, copies and checks of the graph are resolved into `ValueView` objects. Pointwise values with the
same elements, which read each other only at the same element, share an `ExportLoop`, so a layer's inner steps are one pass over
its neurons. Values that later loops read are ``stored``.
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
    """Error: a target cannot express the policy."""


@dataclass(eq=False)
class Value:
    """An array of a control step."""

    name: str
    """Name in C; for a constant, the dotted path of its origin."""
    kind: str
    """input, constant, pointwise, product, convolution, pool, reduction, or join (a concatenation along an axis)."""
    shape: tuple[int, ...]
    operation: str = ""
    operands: tuple[ValueView | float | int | None, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    data: Tensor | None = None
    """Numbers of a constant."""
    boolean: bool = False
    binary: bool = False
    """Whether all elements are 0 or 1."""
    stored: bool = False
    """Whether a later loop reads it."""
    place: str = ""
    """Dotted path of its module."""


@dataclass(frozen=True)
class ValueView:
    """A view of a value: another shape, with a map of indices."""

    value: Value
    shape: tuple[int, ...]
    indices: Callable[[Index], Index]
    """Map from an index of the view to an index of the value."""


@dataclass
class ExportLoop:
    """Pointwise values that are computed one after the other for each element, or a single value of another kind."""

    values: list[Value]

    @property
    def pointwise(self) -> bool:
        """Whether the values are pointwise."""
        return self.values[0].kind == "pointwise"

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes of the loop's axes."""
        return drop_unit_axes(self.values[0].shape)


@dataclass(frozen=True)
class ExportProgram:
    """A control step: inputs by name, loops in their order, and outputs by name."""

    inputs: dict[str, Value]
    loops: tuple[ExportLoop, ...]
    outputs: dict[str, ValueView]


def drop_unit_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return ``shape`` without axes of size 1."""
    return tuple(size for size in shape if size != 1)


def make_index(shape: Sequence[int], variables: Sequence[str]) -> Index:
    """Return an index into ``shape``: one of ``variables`` for each axis of more than one element, else ``0``."""
    remaining = iter(variables)
    return tuple("0" if size == 1 else next(remaining) for size in shape)


def format_flat_index(shape: Sequence[int], index: Index) -> str:
    """Return the C expression of the row-major offset of ``index`` in an array of this ``shape``."""
    parts, stride = [], 1
    for size, term in zip(reversed(shape), reversed(index), strict=True):
        if term != "0":
            parts.append(
                str(int(term) * stride)
                if term.isdigit()
                else term if stride == 1 else f"{parenthesize(term)} * {stride}"
            )
        stride *= size
    constant = sum(int(part) for part in parts if part.isdigit())
    terms = [part for part in reversed(parts) if not part.isdigit()]
    return " + ".join([*terms, *([str(constant)] if constant or not terms else [])])


def parenthesize(term: str) -> str:
    """Put ``term`` in parentheses unless it is a name or a number."""
    return f"({term})" if any(sign in term for sign in "+-*/%") else term


def select_needed(values: Sequence[Value], outputs: Sequence[ValueView]) -> list[Value]:
    """Return the values that the outputs depend on."""
    reached, waiting = set(), [get_storage(view.value) for view in outputs]
    while waiting:
        value = waiting.pop()
        if id(value) not in reached:
            reached.add(id(value))
            waiting += [get_storage(x.value) for x in value.operands if isinstance(x, ValueView)]
    return [value for value in values if id(value) in reached]


def fuse_loops(values: Sequence[Value]) -> list[ExportLoop]:
    """Group ``values`` into loops, and mark values that another loop reads as stored."""
    loops: list[ExportLoop] = []
    for value in values:
        last = loops[-1] if loops else None
        if (
            value.kind == "pointwise"
            and last is not None
            and last.pointwise
            and last.extents == drop_unit_axes(value.shape)
        ):
            inside = {id(member) for member in last.values}
            if all(
                reads_same_element(value, x)
                for x in value.operands
                if isinstance(x, ValueView) and id(get_storage(x.value)) in inside
            ):
                last.values.append(value)
                continue
        loops.append(ExportLoop([value]))
    where = {id(value): i for i, loop in enumerate(loops) for value in loop.values}
    for i, loop in enumerate(loops):
        for value in loop.values:
            for x in value.operands:
                if isinstance(x, ValueView) and where.get(id(get_storage(x.value)), i) != i:
                    get_storage(x.value).stored = True
    return loops


def get_storage(value: Value) -> Value:
    """Return the value in whose memory ``value`` lies: itself, or the original of a reshape."""
    return value.settings.get("memory", value)


def reads_same_element(value: Value, x: ValueView) -> bool:
    """Return whether each element of ``value`` depends only on the same element of its operand ``x``."""
    if drop_unit_axes(x.value.shape) != drop_unit_axes(value.shape):
        return False
    variables = name_loop_variables(value.shape)
    return make_operand_index(value, x, variables) == make_index(x.value.shape, variables)


def make_operand_index(value: Value, x: ValueView, variables: Sequence[str]) -> Index:
    """Return the index of the operand's value for an element of a pointwise value, with torch's broadcasting.

    Args:
        x: The operand.
        variables: Loop variables of ``value``.
    """
    whole = make_index(value.shape, variables)[len(value.shape) - len(x.shape) :]
    return x.indices(tuple("0" if size == 1 else term for size, term in zip(x.shape, whole, strict=True)))


def name_loop_variables(shape: Sequence[int]) -> list[str]:
    """Return the names of the loop variables over ``shape``."""
    return [f"i{axis}" for axis in range(len(drop_unit_axes(shape)))]


def count_elements(shape: Sequence[int]) -> int:
    """Return the number of elements of ``shape``."""
    return math.prod(shape)
