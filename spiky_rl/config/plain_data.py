"""Plain data: the values of YAML and JSON, before they are checked."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence

type PlainValue = bool | int | float | str | Sequence[PlainValue] | Mapping[str, PlainValue] | None
"""Immutable view of a YAML or JSON value; a list and a tuple count as the same."""
type PlainMapping = Mapping[str, PlainValue]
"""Mapping of keys to plain values."""


def get_section(tree: PlainMapping, key: str) -> PlainMapping:
    """Return the mapping at ``key``, or an empty one."""
    below = tree.get(key)
    return below if isinstance(below, Mapping) else {}


def make_hashable(value: PlainValue) -> Hashable:
    """Return a hashable form of ``value``, equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((key, make_hashable(below)) for key, below in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(make_hashable, value))
    return value


def format_value(value: PlainValue) -> str:
    """Format a value for a command line: text unchanged, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def format_override(key: str, value: PlainValue) -> str:
    """Format ``key=value`` for a command line."""
    return f"{key}={format_value(value)}"
