"""Numbers on a command line, for argparse's ``type``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from spiky_rl.config.options import short
from spiky_rl.config.schema import MOST_STEPS


def whole(low: float | None, high: float | None) -> Callable[[str], int]:
    """Reads whole numbers from ``low`` to ``high``; None: without such an end. It raises ArgumentTypeError."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {short(text)}") from None
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {short(value)}")
        if high is not None and value > high:
            raise argparse.ArgumentTypeError(f"must be at most {high}, got {short(value)}")
        return value

    return read


def number(low: float | None, below: float | None) -> Callable[[str], float]:
    """Reads finite numbers from ``low`` to less than ``below``; None: without such an end. It raises ArgumentTypeError."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not math.isfinite(value) or (low is not None and value < low):
            allowed = "finite" if low is None else f"{low:g} or more"
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {text}")
        if below is not None and value >= below:
            raise argparse.ArgumentTypeError(f"must be less than {below:g}, got {text}")
        return value

    return read


positive = whole(1, MOST_STEPS)
"""Reads a whole number above zero that counters of 32 bits hold."""
seed_number = whole(-1, MOST_STEPS)
"""Reads a whole number from zero, or -1, which asks for a random one."""
