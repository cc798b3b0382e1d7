"""Numbers on a command line, for argparse's ``type``."""

from __future__ import annotations

import argparse

from spiky_rl.config.options import short
from spiky_rl.schema import MOST_STEPS


def positive(text: str) -> int:
    """A whole number above zero that counters of 32 bits hold."""
    return _whole(text, 1)


def seed_number(text: str) -> int:
    """A whole number from zero, or -1."""
    return _whole(text, -1)


def _whole(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {short(text)}") from None
    if value < low:
        raise argparse.ArgumentTypeError(f"must be at least {low}, got {short(value)}")
    if value > MOST_STEPS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_STEPS}, got {short(value)}")
    return value
