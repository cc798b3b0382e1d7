"""What the benchmarks share: names that are checked first, and memory that does not decide."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from spiky_rl.config.registry import UserError, suggest_name

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""


def keep_memory() -> bool:
    """Let glibc keep what is freed for the next call: whose tensors are mapped afresh each time is a matter of luck."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    no_mappings, trim_threshold = (-4, 0), (-1, 2**31 - 1)
    return bool(mallopt(*no_mappings) and mallopt(*trim_threshold))


def check_name(flag: str, name: str, known: Sequence[str]) -> None:
    """Raise UserError for a name that is none of ``known``."""
    if name not in known:
        raise UserError(
            f"{flag}: {name!r} is unknown; choose from {', '.join(known)}{suggest_name(name, known)}"
        )
