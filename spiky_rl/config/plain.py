"""Plain data: what YAML and JSON hold, and what settings are before they are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

type Plain = None | bool | int | float | str | Sequence[Plain] | Mapping[str, Plain]
"""A value to be read, not changed; a list and a tuple are the same to it."""
type Tree = Mapping[str, Plain]
"""Values by key."""


def section(tree: Tree, key: str) -> Tree:
    """What ``tree`` holds below ``key``; empty where that is nothing or no mapping."""
    below = tree.get(key)
    return below if isinstance(below, Mapping) else {}
