"""Interfaces of progress displays, for long work that does not know how it is displayed, and numbers as text."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

MAX_DURATION_S = 86_400 * datetime.timedelta.max.days
"""Longest duration that `format_duration` can show, in seconds."""


def format_duration(seconds: float) -> str:
    """Format seconds as ``0:00:05`` or ``1 day, 2:03:04``; a longer time than `MAX_DURATION_S` as that time."""
    return str(datetime.timedelta(seconds=round(min(seconds, MAX_DURATION_S))))


def format_count(number: int, noun: str) -> str:
    """Return the ``number`` with its ``noun``: 1 seed, 5 seeds."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class ProgressCallback(Protocol):
    """Callback that receives the completed share in [0, 1] and an optional status text."""

    def __call__(self, share: float, detail: str | None = None, /) -> None: ...


class ProgressFactory(Protocol):
    """Function that opens a display with a title and a status text."""

    def __call__(self, title: str, detail: str = "", /) -> AbstractContextManager[ProgressCallback]: ...


@contextmanager
def no_progress(_title: str, _detail: str = "", /) -> Iterator[ProgressCallback]:
    """Open no display."""
    yield lambda share, detail=None: None
