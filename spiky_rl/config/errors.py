"""Errors of what users give: one line each, with the nearest name that there is."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what is wrong and what to do in one line, and is all that a user needs."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class RegistryError(UserError):
    """A name that is not in the registry, or a value that a component does not accept."""


class UnknownKey(RegistryError):
    """A key that there is not: the error ends with the nearest of its neighbours, or with all of them."""

    def __init__(self, text: str, path: str, known: Iterable[str]) -> None:
        """Begin with the ``text`` of the error without a hint, the ``path`` of the key, and the keys ``known`` beside it."""
        self.text, self.path, self.known = text, path, tuple(known)
        super().__init__(
            text
            + (
                suggest_name(path.rpartition(".")[2], self.known)
                or f"; known: {', '.join(self.known) or 'none'}"
            )
        )


def shorten(value: object) -> str:
    """The ``value`` as an error message shows it: as Python writes it, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def message_of(error: BaseException) -> str:
    """The text of ``error``, or that it has none: the class of an exception may be anyone's."""
    try:
        return str(error)
    except Exception as failure:  # pylint: disable=broad-exception-caught
        return f"its own text fails with {type(failure).__name__}"


def suggest_name(value: object, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` with the one of the ``valid`` names nearest to ``value``, or nothing."""
    match = difflib.get_close_matches(str(value), list(valid), n=1, cutoff=0.4)
    return f"; did you mean '{match[0]}'?" if match else ""
