"""Numbers on a command line, for argparse's ``type``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spiky_rl.config.options import RegistryError, check_number, shorten
from spiky_rl.config.schema import MOST_STEPS


def number_type[N: (int, float)](kind: type[N], **bounds: float | None) -> Callable[[str], N]:
    """Reads numbers of a ``kind`` within ``bounds``, those of `check_number`; it raises ArgumentTypeError."""

    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {expected}, got {shorten(text)}") from None
        try:
            return check_number("", value, kind, **bounds)
        except RegistryError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None

    return read


positive_int = number_type(int, low=1, high=MOST_STEPS)
"""Reads a whole number above zero that counters of 32 bits hold."""
seed_int = number_type(int, low=-1, high=MOST_STEPS)
"""Reads a whole number from zero, or -1, which asks for a random one."""
