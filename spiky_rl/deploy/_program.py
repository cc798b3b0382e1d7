"""One control step of a policy as a list of loops: what `torch.export` finds in it, without views, copies and checks.

A `Value` is an array with a shape. Pointwise values that run over the same elements and need nothing else of each other
stand in one `ExportLoop`, so a layer's inner steps are one pass over its neurons. Values that later loops read are `stored`.
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
    operands: tuple[ValueView | float | int | None, ...] = ()
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
class ValueView:
    """A value as it is read: under another shape and other indices."""

    value: Value
    shape: tuple[int, ...]
    indices: Callable[[Index], Index]
    """An index of this view to the value's own."""


@dataclass
class ExportLoop:
    """Values that are computed one after the other for each element; a product, reduction, convolution or join stands alone."""

    values: list[Value]

    @property
    def pointwise(self) -> bool:
        """Whether it runs over elements."""
        return self.values[0].kind == "pointwise"

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes of the dimensions that it runs over."""
        return drop_unit_axes(self.values[0].shape)


@dataclass(frozen=True)
class ExportProgram:
    """A control step: inputs, loops in their order, and outputs, each with the names that the module has for them."""

    inputs: dict[str, Value]
    loops: tuple[ExportLoop, ...]
    outputs: dict[str, ValueView]


def drop_unit_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """A ``shape`` without its axes of one element."""
    return tuple(size for size in shape if size != 1)


def indices(shape: Sequence[int], variables: Sequence[str]) -> Index:
    """A whole index into a ``shape`` from the ``variables`` of the axes that have more than one element."""
    remaining = iter(variables)
    return tuple("0" if size == 1 else next(remaining) for size in shape)


def format_flat_index(shape: Sequence[int], index: Index) -> str:
    """C of the place of an ``index`` into a ``shape`` in memory, row-major."""
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
    """A ``term`` in parentheses where it is more than a name or a number."""
    return f"({term})" if any(sign in term for sign in "+-*/%") else term


def select_needed(values: Sequence[Value], outputs: Sequence[ValueView]) -> list[Value]:
    """Those of the ``values`` on which the ``outputs`` depend."""
    reached, waiting = set(), [get_storage(view.value) for view in outputs]
    while waiting:
        value = waiting.pop()
        if id(value) not in reached:
            reached.add(id(value))
            waiting += [get_storage(x.value) for x in value.operands if isinstance(x, ValueView)]
    return [value for value in values if id(value) in reached]


def fuse_loops(values: Sequence[Value]) -> list[ExportLoop]:
    """The ``values`` in loops; marks those that another loop than their own reads."""
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
                same_element(value, x)
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
    """Whose memory a ``value`` lies in."""
    return value.settings.get("memory", value)


def same_element(value: Value, x: ValueView) -> bool:
    """Whether computing an element of a ``value`` takes the same element of its operand ``x``."""
    if drop_unit_axes(x.value.shape) != drop_unit_axes(value.shape):
        return False
    variables = name_loop_variables(value.shape)
    return element(value, x, variables) == indices(x.value.shape, variables)


def element(value: Value, x: ValueView, variables: Sequence[str]) -> Index:
    """The index into what an operand looks at for an element of a pointwise value, broadcast as torch does.

    Args:
        value: That is computed.
        x: The operand.
        variables: Variables of the loops over the value's elements.
    """
    whole = indices(value.shape, variables)[len(value.shape) - len(x.shape) :]
    return x.indices(tuple("0" if size == 1 else term for size, term in zip(x.shape, whole, strict=True)))


def name_loop_variables(shape: Sequence[int]) -> list[str]:
    """Names of the loop variables over a ``shape``."""
    return [f"i{axis}" for axis in range(len(drop_unit_axes(shape)))]


def count_elements(shape: Sequence[int]) -> int:
    """Elements of an array of that ``shape``."""
    return math.prod(shape)
