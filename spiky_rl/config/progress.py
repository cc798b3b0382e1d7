"""How work that takes long is shown: a display is opened under a title, and told which share of the work is done."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


def format_duration(seconds: float) -> str:
    """Seconds for people: ``0:00:05``, ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))


class ProgressCallback(Protocol):
    """Takes the share of the work that is done, in [0, 1], and words that stand beside it from then on."""

    def __call__(self, share: float, detail: str | None = None, /) -> None: ...


class ProgressFactory(Protocol):
    """Opens a display under a title, with words beside it."""

    def __call__(self, title: str, detail: str = "", /) -> AbstractContextManager[ProgressCallback]: ...


@contextmanager
def no_progress(
    title: str, detail: str = "", /
) -> Iterator[ProgressCallback]:  # pylint: disable=unused-argument
    """No display."""
    yield lambda share, detail=None: None
