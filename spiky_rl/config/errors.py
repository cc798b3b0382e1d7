"""Errors of user input: one line each, with the nearest known name."""

from __future__ import annotations

import difflib
import importlib.util
import math
import shlex
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Bad user input; the message is one line that names the fault and its remedy."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class RegistryError(UserError):
    """Name that is not in the registry, or value that a component does not accept."""


class UnknownKey(RegistryError):
    """Unknown key; the message ends with the nearest known key, or with all known keys."""

    def __init__(self, text: str, path: str, known: Iterable[str]) -> None:
        """Make the message from ``text``, the dotted ``path`` of the key, and the ``known`` keys of its section."""
        self.text, self.path, self.known = text, path, tuple(known)
        hint = suggest_name(path.rpartition(".")[2], self.known)
        super().__init__(text + (hint or f"; known: {', '.join(self.known) or 'none'}"))


def shorten(value: object) -> str:
    """Return the repr of ``value`` for an error message, cut to 80 characters."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a whole number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def get_error_text(error: BaseException) -> str:
    """Return the text of ``error`` on one line, cut to 300 characters, or a note if its ``__str__`` fails: the class may be foreign code."""
    try:
        return " ".join(str(error).split())[:300]
    except Exception as failure:  # pylint: disable=broad-exception-caught
        return f"its own text fails with {type(failure).__name__}"


def format_install_command(*requirements: str) -> str:
    """Return the command that installs ``requirements`` such as ``.[live]`` in a clone: the package is on no index."""
    return f"in a clone: pip install {shlex.join(requirements)}"


def require_module(module: str, extra: str, remedy: str = "") -> Path:
    """Return the file of ``module`` without importing it.

    Raises UserError with a ``remedy`` if the module is missing, by default the command that installs the ``extra``.
    """
    spec = importlib.util.find_spec(module)
    # a folder without code, such as the wandb/ of earlier runs, has a spec without an origin
    if spec is None or spec.origin is None:
        remedy = remedy or f"install it {format_install_command(f'.[{extra}]')}"
        raise UserError(f"{module} is not installed; {remedy}")
    return Path(spec.origin)


def suggest_name(value: object, valid: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the ``valid`` name nearest to ``value``, or an empty text."""
    match = difflib.get_close_matches(str(value), list(valid), n=1, cutoff=0.4)
    return f"; did you mean '{match[0]}'?" if match else ""
