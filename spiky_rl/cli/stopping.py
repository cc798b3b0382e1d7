"""Ctrl-C and SIGTERM as a wish that a command fulfils where nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spiky_rl.cli.common import log


@contextmanager
def stoppable(message: str) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether a stop was asked for, which ``message`` announces; a second one stops at once."""
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.info(message)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
