"""Ctrl-C, SIGTERM and SIGHUP as a wish that a command fulfils where nothing is lost."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class ImmediateStop(KeyboardInterrupt):
    """A signal that no longer asks a command to stop, but stops it at once."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code
        """What shells call a process that the signal ended."""


class StopRequest:
    """Tells whether a stop was asked for, and how."""

    def __init__(self, message: str) -> None:
        self.message = message
        """Announces what a first signal leads to."""
        self.signal = 0
        """The signal that asked; 0: none did."""
        # one that has hung up no longer says that it is a terminal
        self.terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def __call__(self) -> bool:
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """Exit code of a process that a signal ended, as shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP; 0 for none."""
        return 128 + self.signal if self.signal else 0

    def get_exit_code(self, outcome: str) -> int:
        """The exit code of a command whose work ended like that: ``finished``, ``stopped`` or ``failed: why``."""
        return 1 if outcome.startswith("failed") else self.exit_code if outcome == "stopped" else 0

    def handle_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """Take a signal; a second one stops at once. Raises Stopped."""
        if number == signal.SIGHUP:
            self.detach_terminals()
        if self.signal:
            raise ImmediateStop(self.exit_code)
        self.signal = number
        log.info(self.message)

    def detach_terminals(self) -> None:
        """Write to nowhere what would go to a terminal: it has hung up, and writing to it fails."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self.terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def handle_stop_signals(message: str) -> Iterator[StopRequest]:
    """Gives what tells whether a stop was asked for, which ``message`` announces; a second signal stops at once."""
    asked = StopRequest(message)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup asks for
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, asked.handle_signal) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def start_simulation[Simulation](simulation: AbstractContextManager[Simulation]) -> Iterator[Simulation]:
    """A simulation for a command that a signal ends at once; one that comes while it starts does so after the start.

    Else it would be lost: what a simulator loads meanwhile catches it.
    """
    with ExitStack() as entered:
        with handle_stop_signals("stopping once the simulator has started") as asked:
            running = entered.enter_context(simulation)
        if asked():
            signal.raise_signal(asked.signal)
        yield running
