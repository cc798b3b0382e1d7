"""Types of a neuron's step: values such as ``s.v`` and ``p.decay``, and the functions on them.

A step runs on torch tensors (the reference) and on symbols of the kernel compiler, which record it. `StepValue` declares the
operations that both have, for editors and type checkers, without importing either.
"""

# pylint: disable=unused-argument,unnecessary-ellipsis  # declarations for the type checker have no body

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self


class ComparisonResult(Protocol):
    """Result of a comparison of values; usable only in `Ops.where`."""


class StepValue(Protocol):
    """Tensor [..., N] or a symbol of one; has ``+ - * /``, squares, cubes, and comparisons with another value or a number."""

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
"""Value of a step: one number per neuron, or one for all neurons."""


class Ops:
    """Functions that a step may use: ``exp tanh tan sqrt abs min max where heaviside spike detach``."""

    if TYPE_CHECKING:  # subclasses define them, one of them in __getattr__

        def exp(self, x: Value, /) -> Value: ...

        def tanh(self, x: Value, /) -> Value: ...

        def tan(self, x: Value, /) -> Value: ...

        def sqrt(self, x: Value, /) -> Value: ...

        def abs(self, x: Value, /) -> Value:
            """Return |x|; the derivative at 0 is 0."""
            ...

        def min(self, x: Value, y: Value, /) -> Value:
            """Return the smaller value; if x and y are equal, each gets half of the gradient."""
            ...

        def max(self, x: Value, y: Value, /) -> Value:
            """Return the larger value; if x and y are equal, each gets half of the gradient."""
            ...

        def where(self, condition: ComparisonResult, x: Value, y: Value, /) -> Value:
            """Return x where the condition holds, else y."""
            ...

        def heaviside(self, x: Value, /) -> Value:
            """Return 1 where x >= 0, else 0, without a gradient."""
            ...

        def spike(self, x: Value, /) -> Value:
            """Return 1 where x >= 0, else 0; the derivative is the surrogate's at x, the distance to the threshold."""
            ...

        def detach(self, x: Value, /) -> Value:
            """Return x without its gradient."""
            ...


class ReferenceOps(Ops):
    """`Ops` on tensors with two further functions, for a surrogate's ``primitive``, which is never compiled."""

    if TYPE_CHECKING:

        def atan(self, x: Value, /) -> Value: ...

        def erf(self, x: Value, /) -> Value: ...
