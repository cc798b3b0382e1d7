"""How a command starts, stops and ends: robust streams, stop requests of signals, one line per error, and the exit code.

Ctrl-C, SIGTERM and SIGHUP are a stop request, which a command fulfils at a point where nothing is lost.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType

from spiky_rl.config.files import DISK_ERRORS, PATH_ERRORS, format_os_error
from spiky_rl.config.options import UserError
from spiky_rl.hosts.base import NonFiniteError

log = logging.getLogger(__name__)


def run_command(command: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Run a command: bad input ends in one line on stderr and exit code 2, a failure while running in exit code 1."""
    prepare_streams()
    prepare_libraries()
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # an error is still reported here
        return code
    except (UserError, NonFiniteError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted\n")
        return error.exit_code if isinstance(error, ImmediateStop) else 130
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        discard_output()
        return 141
    except OSError as error:
        return report_os_error(error)


def report_os_error(error: OSError) -> int:
    """Print an error of a path or a disk in one line and return the exit code; raise any other ``error``."""
    if error.errno not in PATH_ERRORS | DISK_ERRORS:
        raise error
    if error.filename is None:
        discard_output()
    sys.stderr.write(f"error: {format_os_error(error)}\n")
    return 2 if error.errno in PATH_ERRORS else 1


def prepare_streams() -> None:
    """Open closed streams on the null device, and replace characters that the terminal cannot encode."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # otherwise the next opened file gets this descriptor, and libraries print into that file
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            # stays open until the process ends
            stream = open(os.devnull, mode, encoding="utf-8")  # pylint: disable=consider-using-with
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def prepare_libraries() -> None:
    """Prevent failures and messages of libraries about missing git, a full disk and the interpreter's exit."""
    if shutil.which("git") is None:
        # rsl_rl records the state of repositories if it can
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    threading.excepthook = suppress_disk_full_traceback
    # garbage collection at exit visits a million objects after a training, which takes four seconds
    atexit.register(gc.freeze)


def suppress_disk_full_traceback(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, but not of a full disk: TensorBoard's writer passes that error to the main thread, which reports it."""
    if isinstance(failure.exc_value, OSError) and failure.exc_value.errno in DISK_ERRORS:
        log.debug("%s: %s", failure.thread, failure.exc_value)
    else:
        threading.__excepthook__(failure)


def discard_output() -> None:
    """Discard all further output, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        if outcome.startswith("failed"):
            return 1
        return self.exit_code if outcome == "stopped" else 0

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
