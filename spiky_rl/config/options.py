"""Options: what one setting may be, declared once, and the check of a value against it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LARGEST_INTEGER = 2**63 - 1
"""What an integer of 64 bits holds: what torch and the simulators count with."""
LARGEST_FLOAT = 3.4e38
"""What a float of 32 bits holds: what networks compute with."""

PLURALS = {float: "numbers", int: "whole numbers", str: "names", bool: "true or false"}
"""The plain words for several of a type."""


class UserError(ValueError):
    """Bad input: the message says what is wrong and what to do in one line, and is all that a user needs."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class RegistryError(UserError):
    """A name that is not in the registry, or a value that a component does not accept."""


@contextmanager
def at(path: str) -> Iterator[None]:
    """Say in an error where in the agent its cause stands."""
    try:
        yield
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Option:
    """One setting of a component: its default, its meaning and what it may be."""

    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    """Inclusive range of a number, or of a list's elements."""
    unit: str = ""
    choices: tuple[str, ...] = ()
    above: float | None = None
    """A bound that a number has to exceed."""
    of: type | None = None
    """Type of a list's elements (by default whole numbers where they have a range), or of a value whose default is None."""
    least: int = 0
    """Elements that a list needs, where it is given."""
    most: int | None = None
    """Elements that a list may have."""
    lengths: tuple[int, ...] = ()
    """How many elements a list may have; empty: any number."""

    def check(self, path: str, value: Any) -> Any:
        """The value in its declared type. Raises RegistryError that names ``path``, the value and what is allowed."""
        if value is None and self.default is None:
            return None
        if self.choices:
            if value not in self.choices:
                raise RegistryError(
                    f"{path}: {short(value)} is not allowed; choose from {', '.join(name or "''" for name in self.choices)}"
                    f"{nearest(value, self.choices)}"
                )
            return value
        bounded = any(bound is not None for bound in (self.low, self.high, self.above))
        if isinstance(self.default, list | tuple):
            return self._list(path, value, self.of or (int if bounded else None))
        kind = self.of if self.default is None else type(self.default)
        typed = _typed(path, value, kind)
        if bounded and (isinstance(typed, bool) or not isinstance(typed, int | float)):
            raise RegistryError(f"{path}: expected {describe(float)}, got {short(value)}")
        return check_range(path, typed, self.low, self.high, self.above)

    def _list(self, path: str, value: Any, kind: type | None) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise RegistryError(
                f"{path}: expected a list, got {'nothing' if value is None else short(value)}"
            )
        too_long = self.most is not None and len(value) > self.most
        if len(value) < self.least or too_long or self.lengths and len(value) not in self.lengths:
            allowed = " or ".join(map(str, self.lengths)) or (
                f"at most {self.most}" if too_long else f"at least {self.least}"
            )
            raise RegistryError(
                f"{path}: {short(list(value))} has {len(value)} values; it must have {allowed}"
            )
        elements = [_typed(path, element, kind, plural=True) for element in value]
        if kind is str and len(set(elements)) < len(elements):
            twice = next(name for i, name in enumerate(elements) if name in elements[:i])
            raise RegistryError(f"{path}: {short(twice)} stands twice")
        return tuple(check_range(path, element, self.low, self.high, self.above) for element in elements)


def describe(kind: type) -> str:
    """The plain word for a Python type, as error messages use it."""
    words = {
        float: "a number",
        int: "a whole number",
        str: "text",
        bool: "true or false",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    return words.get(kind, kind.__name__)


def check_range(
    path: str, value: Any, low: float | None, high: float | None, above: float | None = None
) -> Any:
    """The value, if it lies in [low, high], exceeds ``above`` and is finite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise RegistryError(f"{path}: {value!r} is out of range; it must be finite")
    too_low = low is not None and value < low or above is not None and value <= above
    if too_low or high is not None and value > high:
        if low is not None and high is not None:
            bounds = f"between {low} and {high}"
        else:
            parts = [("at least", low), ("above", above), ("at most", high)]
            bounds = " and ".join(f"{word} {bound}" for word, bound in parts if bound is not None)
        raise RegistryError(f"{path}: {short(value)} is out of range; it must be {bounds}")
    largest = LARGEST_INTEGER if isinstance(value, int) else LARGEST_FLOAT
    if abs(value) > largest:
        raise RegistryError(
            f"{path}: {short(value)} is out of range; it must be between -{largest} and {largest}"
        )
    return value


def _typed(path: str, value: Any, kind: type | None, plural: bool = False) -> Any:
    """The value as a ``kind``: whole numbers are numbers too; None: whatever it is."""
    if kind is None:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        # one that no float holds is out of every range
        return float(value) if abs(value) <= LARGEST_INTEGER else value
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        expected = PLURALS.get(kind, kind.__name__) if plural else describe(kind)
        raise RegistryError(
            f"{path}: expected {expected}, got {'nothing' if value is None else short(value)}"
        )
    return value


def short(value: Any) -> str:
    """A value as an error message shows it: as Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(value: Any, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the valid name nearest to ``value``, or nothing."""
    match = difflib.get_close_matches(str(value), list(valid), n=1, cutoff=0.4)
    return f"; did you mean '{match[0]}'?" if match else ""
