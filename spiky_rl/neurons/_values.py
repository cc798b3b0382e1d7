"""Values in a neuron's step, and the vocabulary of functions on them.

A step runs on torch tensors, where it is the reference, and on the symbols of the compiler, which record it. Neither is known
here: `StepValue` says what both can do, so that an editor and a type checker know it of ``s.v`` and ``p.decay`` too.
"""

# pylint: disable=unused-argument,unnecessary-ellipsis  # what is declared here for the type checker has no body

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self


class ComparisonResult(Protocol):
    """Result of comparing values; it can only be given to `Ops.where`."""


class StepValue(Protocol):
    """A tensor [..., N] or a symbol for one: ``+ - * /``, squares and cubes, and comparison with its like or a number."""

    def __add__(self, other: Self | float, /) -> Value: ...

    def __radd__(self, other: float, /) -> Value: ...

    def __sub__(self, other: Self | float, /) -> Value: ...

    def __rsub__(self, other: float, /) -> Value: ...

    def __mul__(self, other: Self | float, /) -> Value: ...

    def __rmul__(self, other: float, /) -> Value: ...

    def __truediv__(self, other: Self | float, /) -> Value: ...

    def __rtruediv__(self, other: float, /) -> Value: ...

    def __pow__(self, exponent: int, /) -> Value: ...

    def __neg__(self) -> Value: ...

    def __lt__(self, other: Self | float, /) -> ComparisonResult: ...

    def __le__(self, other: Self | float, /) -> ComparisonResult: ...

    def __gt__(self, other: Self | float, /) -> ComparisonResult: ...

    def __ge__(self, other: Self | float, /) -> ComparisonResult: ...


type Value = StepValue | float
"""What a step computes with: one number per neuron, or one for all of them."""


class Ops:
    """The functions that a step may use: ``exp tanh tan sqrt abs min max where heaviside spike detach``."""

    if (
        TYPE_CHECKING
    ):  # told here and defined by each of its twins, one of which makes them as they are asked for

        def exp(self, x: Value, /) -> Value: ...

        def tanh(self, x: Value, /) -> Value: ...

        def tan(self, x: Value, /) -> Value: ...

        def sqrt(self, x: Value, /) -> Value: ...

        def abs(self, x: Value, /) -> Value:
            """|x|; its derivative at 0 is 0."""
            ...

        def min(self, x: Value, y: Value, /) -> Value:
            """The smaller one; where x and y are equal, each takes half of the gradient."""
            ...

        def max(self, x: Value, y: Value, /) -> Value:
            """The larger one; where x and y are equal, each takes half of the gradient."""
            ...

        def where(self, condition: ComparisonResult, x: Value, y: Value, /) -> Value:
            """x where the condition holds, else y."""
            ...

        def heaviside(self, x: Value, /) -> Value:
            """1 where x >= 0, else 0, as a constant for the gradient."""
            ...

        def spike(self, x: Value, /) -> Value:
            """1 where x >= 0, else 0; its derivative is the surrogate's at x, the distance to the threshold."""
            ...

        def detach(self, x: Value, /) -> Value:
            """x, as a constant for the gradient."""
            ...


class ReferenceOps(Ops):
    """The vocabulary on tensors, with two functions more, for what is never compiled: a surrogate's ``primitive``."""

    if TYPE_CHECKING:

        def atan(self, x: Value, /) -> Value: ...

        def erf(self, x: Value, /) -> Value: ...
