"""How a command runs: streams that take what is printed, one line for an error, and the exit code."""

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
        sys.stdout.flush()  # here an error can still be told
        return code
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt as error:
        sys.stderr.write("interrupted\n")
        return error.exit_code if isinstance(error, ImmediateStop) else 130
    except BrokenPipeError:  # the reader has enough, as `| head` has
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
    """Give closed streams somewhere to write to, and let characters that a terminal lacks be replaced, not fail."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # else the next file to be opened gets this number, and what libraries print goes into it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            # for as long as the process runs
            stream = open(os.devnull, mode, encoding="utf-8")  # pylint: disable=consider-using-with
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def prepare_libraries() -> None:
    """Keep libraries from failing, or from talking, over what a command answers for."""
    if shutil.which("git") is None:
        os.environ.setdefault(
            "GIT_PYTHON_REFRESH", "quiet"
        )  # rsl_rl notes the state of repositories, where it can
    threading.excepthook = suppress_disk_full_traceback
    # At its exit the interpreter looks through all objects for garbage: after a training a million of them, for four seconds.
    atexit.register(gc.freeze)


def suppress_disk_full_traceback(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a full disk: TensorBoard's writer hands it to the main thread, which ends with one line."""
    if isinstance(failure.exc_value, OSError) and failure.exc_value.errno in DISK_ERRORS:
        logging.getLogger("spiky_rl").debug("%s: %s", failure.thread, failure.exc_value)
    else:
        threading.__excepthook__(failure)


def discard_output() -> None:
    """Discard all further output, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
