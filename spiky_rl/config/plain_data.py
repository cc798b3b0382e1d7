"""Plain data: what YAML and JSON hold, and what settings are before they are checked."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence

type PlainValue = bool | int | float | str | Sequence[PlainValue] | Mapping[str, PlainValue] | None
"""A value to be read, not changed; a list and a tuple are the same to it."""
type PlainMapping = Mapping[str, PlainValue]
"""Values by key."""


def get_section(tree: PlainMapping, key: str) -> PlainMapping:
    """The mapping below ``key`` in ``tree``; empty where there is none."""
    below = tree.get(key)
    return below if isinstance(below, Mapping) else {}


def hashable(value: PlainValue) -> Hashable:
    """A key for ``value`` in sets and mappings, equal for equal values."""
    if isinstance(value, Mapping):
        return frozenset((key, hashable(below)) for key, below in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(hashable, value))
    return value


def format_value(value: PlainValue) -> str:
    """The ``value`` as a command line writes it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def format_override(key: str, value: PlainValue) -> str:
    """``key=value`` as a command line takes it."""
    return f"{key}={format_value(value)}"
