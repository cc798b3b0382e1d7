"""Flags in a command line that argparse does not parse, or has not parsed yet."""

from __future__ import annotations

from collections.abc import Sequence


def find_value(flag: str, arguments: Sequence[str]) -> str | None:
    """Return the last value of ``flag`` in ``arguments``; None if it is not given, empty if it has no value."""
    value, words = None, iter(arguments)
    for word in words:
        name, equals, attached = word.partition("=")
        if name == flag:
            value = attached if equals else next(words, "")
    return value


def remove_flag(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return the ``arguments`` without ``flag`` and its value."""
    remaining, words = [], iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name != flag:
            remaining.append(word)
        elif not equals:
            next(words, None)
    return remaining
