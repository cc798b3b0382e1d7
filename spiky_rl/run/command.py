"""Entry point of every command: robust streams, one line per error, and the exit code."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable

from spiky_rl.config.files import DISK_ERRORS, PATH_ERRORS, format_os_error
from spiky_rl.config.options import UserError
from spiky_rl.run.signals import ImmediateStop


def run_command(command: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Run a command: bad input ends in one line on stderr and exit code 2, a failure while running in exit code 1."""
    prepare_streams()
    prepare_libraries()
    try:
        code = command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # an error is still reported here
        return code
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted\n")
        return error.exit_code if isinstance(error, ImmediateStop) else 130
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        discard_output()
        return 141
    except OSError as error:
        if error.errno not in PATH_ERRORS | DISK_ERRORS:
            raise
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
        os.environ.setdefault(
            "GIT_PYTHON_REFRESH", "quiet"
        )  # rsl_rl records the state of repositories if it can
    threading.excepthook = suppress_disk_full_traceback
    # garbage collection at exit visits a million objects after a training, which takes four seconds
    atexit.register(gc.freeze)


def suppress_disk_full_traceback(failure: threading.ExceptHookArgs) -> None:
    """Suppress the traceback of a full disk: TensorBoard's writer passes the error to the main thread, which prints one line."""
    if isinstance(failure.exc_value, OSError) and failure.exc_value.errno in DISK_ERRORS:
        logging.getLogger("spiky_rl").debug("%s: %s", failure.thread, failure.exc_value)
    else:
        threading.__excepthook__(failure)


def discard_output() -> None:
    """Discard all further output, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
