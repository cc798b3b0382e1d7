"""C expressions as values: arithmetic on them gives the expression of the result, in as few parentheses as C allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from spiky_rl.kernels.emit import format_literal


class Term:
    """The C expression of a number in a statement: ``lines`` are the declarations before it, ``use_function`` adds a helper to the file."""

    def __init__(
        self, text: str, lines: list[str], use_function: Callable[[str], str], rank: int = 9
    ) -> None:
        self.text, self.lines, self.use_function = text, lines, use_function
        self.rank = min(rank, 7) if text.startswith("-") else rank

    def make(self, text: str, rank: int = 9) -> Term:
        """Return another term of the same statements; ``rank``: precedence of the operator in ``text``."""
        return Term(text, self.lines, self.use_function, rank)

    def infix(self, operator: str, other: Term | float, rank: int) -> Term:
        """Return this term and ``other`` with an ``operator`` between them."""
        return self.make(f"{bracket(self, rank)} {operator} {bracket(other, rank + 1)}", rank)

    def __add__(self, other: Term | float) -> Term:
        return self.infix("+", other, 5)

    def __sub__(self, other: Term | float) -> Term:
        return self.infix("-", other, 5)

    def __mul__(self, other: Term | float) -> Term:
        return self.infix("*", other, 6)

    def __neg__(self) -> Term:
        return self.make(f"-{bracket(self, 8)}", 7)

    def __rshift__(self, bits: int) -> Term:
        return self.make(f"{bracket(self, 7)} >> {bits}", 4)

    def __ge__(self, other: Term | float) -> Term:
        return self.infix(">=", other, 3)

    def __lt__(self, other: Term | float) -> Term:
        return self.infix("<", other, 3)

    def __gt__(self, other: Term | float) -> Term:
        return self.infix(">", other, 3)

    def call(self, function: str, *args: Term | float) -> Term:
        """Return a call of a helper ``function`` on this term and ``args``."""
        return self.make(f"{self.use_function(function)}({', '.join(bracket(x, -1) for x in (self, *args))})")


def bracket(x: Any, least: int) -> str:
    """Return the C text of ``x``, in parentheses unless its precedence is at ``least``."""
    if isinstance(x, Term):
        return x.text if x.rank >= least else f"({x.text})"
    assert not isinstance(x, Tensor)
    text = format_literal(x) if isinstance(x, float) else str(x)
    return f"({text})" if x < 0 and least > -1 else text


def select(condition: Term, x: Term | float, y: Term | float) -> Term:
    """Return ``x`` if the ``condition`` is not 0, else ``y``."""
    return condition.make(f"{bracket(condition, 1)} ? {bracket(x, 1)} : {bracket(y, 1)}", 0)
