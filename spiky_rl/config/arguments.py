"""Numbers on a command line, for argparse's ``type``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from spiky_rl.config.options import short
from spiky_rl.config.schema import MOST_STEPS


def positive(text: str) -> int:
    """``text`` as a whole number above zero that counters of 32 bits hold. Raises ArgumentTypeError."""
    return _whole(text, 1, MOST_STEPS)


def up_to(most: int) -> Callable[[str], int]:
    """Reads whole numbers from 1 to ``most``."""
    return lambda text: _whole(text, 1, most)


def seed_number(text: str) -> int:
    """``text`` as a whole number from zero, or -1, which asks for a random one. Raises ArgumentTypeError."""
    return _whole(text, -1, MOST_STEPS)


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {short(text)}") from None
    if value < low:
        raise argparse.ArgumentTypeError(f"must be at least {low}, got {short(value)}")
    if value > high:
        raise argparse.ArgumentTypeError(f"must be at most {high}, got {short(value)}")
    return value
