"""How work that takes long is shown: a display is opened under a title, and told which share of the work is done."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


def duration(seconds: float) -> str:
    """Seconds for people: ``0:00:05``, ``1 day, 2:03:04``."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Tell(Protocol):
    """Takes the share of the work that is done, in [0, 1], and words that stand beside it from then on."""

    def __call__(self, share: float, detail: str | None = None, /) -> None: ...


class Shown(Protocol):
    """Opens a display under a title, with words beside it."""

    def __call__(self, title: str, detail: str = "", /) -> AbstractContextManager[Tell]: ...


@contextmanager
def unseen(title: str, detail: str = "", /) -> Iterator[Tell]:  # pylint: disable=unused-argument
    """No display."""
    yield lambda share, detail=None: None
