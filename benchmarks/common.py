"""Helpers of all benchmarks: a check of names, the spread of times, and the configuration of malloc."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Sequence
from pathlib import Path

from spiky_rl.config.registry import UserError, suggest_name

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next call; otherwise chance decides which tensors are mapped anew. Return whether it works."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    no_mappings, trim_threshold = (-4, 0), (-1, 2**31 - 1)
    return bool(mallopt(*no_mappings) and mallopt(*trim_threshold))


def compute_median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range of ``values``; a range of 0 for a single value."""
    if len(values) == 1:
        return values[0], 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return statistics.median(values), high - low


def check_name(flag: str, name: str, known: Sequence[str]) -> None:
    """Raise UserError if ``name`` is not in ``known``."""
    if name not in known:
        raise UserError(
            f"{flag}: {name!r} is unknown; allowed: {', '.join(known)}{suggest_name(name, known)}"
        )
