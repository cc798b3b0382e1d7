"""Ctrl-C, SIGTERM and SIGHUP as a stop request, which a command fulfils at a point where nothing is lost."""

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
    """Signal that stops a command at once."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code
        """Exit code in a shell of a process that the signal ended."""


class StopRequest:
    """Stop request of a signal; a call returns whether one has arrived."""

    def __init__(self, message: str) -> None:
        self.message = message
        """Log line of the first signal."""
        self.signal = 0
        """Number of the signal; 0 if none has arrived."""
        # found now: isatty is False after the terminal has hung up
        self.terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def __call__(self) -> bool:
        return self.signal != 0

    @property
    def exit_code(self) -> int:
        """Exit code that shells give to an ended process: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP; 0 without a signal."""
        return 128 + self.signal if self.signal else 0

    def get_exit_code(self, outcome: str) -> int:
        """Return the exit code for an ``outcome``: ``finished``, ``stopped`` or ``failed: <reason>``."""
        return 1 if outcome.startswith("failed") else self.exit_code if outcome == "stopped" else 0

    def handle_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """Record the first signal; raise ImmediateStop for a second one."""
        if number == signal.SIGHUP:
            self.detach_terminals()
        if self.signal:
            raise ImmediateStop(self.exit_code)
        self.signal = number
        log.info(self.message)

    def detach_terminals(self) -> None:
        """Redirect terminal output to the null device: writing to a terminal that has hung up fails."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self.terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def handle_stop_signals(message: str) -> Iterator[StopRequest]:
    """Handle signals as a `StopRequest`: the first one logs ``message``, a second one stops at once."""
    request = StopRequest(message)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request.handle_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def start_simulation[Simulation](simulation: AbstractContextManager[Simulation]) -> Iterator[Simulation]:
    """Open a simulation, which a signal ends at once. A signal during the start takes effect after the start.

    Libraries that a simulator loads would otherwise swallow it.
    """
    with ExitStack() as entered:
        with handle_stop_signals("stopping once the simulator has started") as request:
            running = entered.enter_context(simulation)
        if request():
            signal.raise_signal(request.signal)
        yield running
