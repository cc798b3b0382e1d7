"""The host's C++ compiler and a cache of its shared objects, so that each text is compiled once.

The name of a cache entry is a digest of everything it depends on: text, flags, compiler and CPU. A new entry is compiled under
another name and then moved into place, so processes that compile the same text at once do not disturb each other. Only this user may
access folder and entries; an entry that another user owns or may write is not loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from spiky_rl.config import files
from spiky_rl.config.registry import UserError

log = logging.getLogger(__name__)

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",  # a neuron's forward is bit-equal to torch's; matrix products call multiply_add explicitly
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)
OPENMP_TEST = '#include <omp.h>\nextern "C" int test() { return omp_get_max_threads(); }'
"""C++ that only a compiler with OpenMP accepts and links."""
TIMEOUT = 300.0
"""Seconds for compiling one text; it takes three or four on an idle machine, and a minute if the machine has ten times the load."""
VERSION_TIMEOUT = 20.0
"""Seconds for ``--version``, the first call of a compiler, so that a compiler that hangs is detected early."""
PRIVATE = 0o700
"""Permissions of folders and files that code is loaded from."""
SEAL = 32
"""Bytes of the digest at the end of a cache entry. It detects an incomplete file, which would crash the process when loaded. It gives
no security, because anyone can write a digest."""


class CompileError(UserError):
    """Compilation failed: no compiler, an error in the text, or a timeout."""


def find_command(variable: str, *names: str) -> tuple[str, ...] | None:
    """Return the command in the environment ``variable``, or else the first of ``names`` that exists; None without any."""
    try:
        words = shlex.split(os.environ.get(variable, ""))
    except ValueError:  # an unclosed quote
        return None
    words = words or [name for name in names if shutil.which(name)][:1]
    return tuple(words) if words and shutil.which(words[0]) else None


@cache
def find_compiler() -> tuple[str, ...] | None:
    """Return the command of the C++ compiler: $CXX if set, else g++, clang++ or c++; None without any."""
    return find_command("CXX", "g++", "clang++", "c++")


def get_missing_message() -> str:
    """Return the error message for a missing compiler."""
    if chosen := os.environ.get("CXX", "").strip():
        return f"the compiler that CXX names, {chosen!r}, does not exist; unset CXX or correct it"
    return "no C++ compiler found; install g++ (apt install g++) or clang, or set CXX"


@cache
def get_compiler_identity() -> str:
    """Return a text that identifies the compiler, its version, and the CPU that -march=native means."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        cpu = platform.processor()
    return f"{find_compiler()} {get_compiler_version()} {platform.machine()} {cpu}"


@cache
def get_compiler_version() -> str:
    """Return the compiler's output for ``--version``. Raises CompileError if the compiler does not start."""
    words = find_compiler()
    assert words is not None
    return _run([*words, "--version"], limit=VERSION_TIMEOUT).stdout


@cache
def get_openmp_flags() -> tuple[str, ...]:
    """Return the compiler's flags for OpenMP, empty if it has none; the answer takes 0.05 s and is the same for all texts of a process."""
    with tempfile.TemporaryDirectory(prefix=".openmp-", dir=get_cache_folder()) as folder:
        line = [*(find_compiler() or ()), *FLAGS, "-fopenmp", "-x", "c++", "-", "-o", f"{folder}/test.so"]
        return ("-fopenmp",) if _run(line, OPENMP_TEST).returncode == 0 else ()


def refuse_foreign_cache() -> None:
    """Raise UserError if `get_cache_folder` would, but do not make a folder: an early check before anything is compiled."""
    try:
        folder = _get_default_folder()
        exists = find_compiler() is not None and folder.is_dir()
    except (
        OSError,
        files.NoHomeError,
    ):  # unreadable: `get_cache_folder` warns and falls back to a temporary folder
        return
    if exists:
        check_owner(folder)


def check_owner(path: Path) -> None:
    """Raise UserError if another user owns ``path`` or may write to it: a library runs with all rights of the user who loads it."""
    status, own = path.stat(), os.geteuid()
    remedy = "set SPIKY_RL_CACHE to a folder of your own"
    if status.st_uid != own:
        raise UserError(
            f"{path} belongs to user {_get_user_name(status.st_uid)}; user {_get_user_name(own)} loads no code from it: {remedy}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"{path} may be written by other users (mode {stat.S_IMODE(status.st_mode):o}), so no code is loaded from it: remove"
            f" it (rm -r {shlex.quote(str(path))}) and run again, or {remedy}"
        )


def _get_user_name(user: int) -> str:
    """Return the name of ``user``, or the number if this machine has no name for it."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _get_default_folder() -> Path:
    return files.cache_folder() / "kernels"


@cache
def get_cache_folder() -> Path:
    """Return the folder of the shared objects: the cache, or a temporary folder if the cache is not writable.

    Raises UserError if another user owns the cache or may write to it.
    """
    try:
        folder = _get_default_folder()
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        check_owner(folder)
        folder.chmod(PRIVATE)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, files.NoHomeError) as error:
        temporary = Path(tempfile.mkdtemp(prefix="spiky_rl-kernels-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        log.warning(
            "kernels are compiled anew in every process, because the cache cannot be written (%s); set SPIKY_RL_CACHE to a"
            " writable folder",
            error,
        )
        return temporary


@cache
def compile_library(
    text: str, of: str, flags: tuple[str, ...] = (), duration: str = "some seconds"
) -> ctypes.CDLL:
    """Return the shared object of a C++ text, from the cache or compiled anew.

    Args:
        text: The C++ text.
        of: Name of the kernels for the log line "compiling the kernels of ...".
        flags: Compiler flags besides `FLAGS`.
        duration: Expected duration, for the log line.

    Raises `CompileError` with the compiler's message.
    """
    if find_compiler() is None:
        raise CompileError(get_missing_message())
    key = hashlib.sha256(
        "\0".join([text, *FLAGS, *get_openmp_flags(), *flags, get_compiler_identity(), "sealed"]).encode()
    ).hexdigest()[:24]
    path = get_cache_folder() / f"{key}.so"
    if path.is_file():
        check_owner(path)
        try:
            return _load(path)
        except OSError as error:
            log.warning("%s is damaged and compiled again (%s)", path, error)
    log.info("compiling the kernels of %s with %s, once: %s", of, shlex.join(find_compiler() or ()), duration)
    try:
        files.write_atomically(path, lambda temporary: compile_to(temporary, text, flags))
        return _load(path)
    except OSError as error:
        raise CompileError(
            f"cannot write kernels to {str(path.parent)!r}: {error.strerror or error}; set SPIKY_RL_CACHE to a writable folder"
        ) from error


def compile_to(path: Path, text: str, flags: tuple[str, ...] = ()) -> None:
    """Compile the C++ ``text`` to a shared object at ``path``, with OpenMP if the compiler supports it.

    The file is loaded once before it is sealed, so that the cache holds only loadable files. ``flags`` are compiler flags besides
    `FLAGS`.
    """
    words = find_compiler()
    assert words is not None
    result = _run(
        [*words, *FLAGS, *get_openmp_flags(), "-x", "c++", "-", "-x", "none", *flags, "-o", str(path)], text
    )
    if result.returncode != 0:
        output = result.stderr or result.stdout or f"exit code {result.returncode}"
        log.debug("the compiler's output:\n%s", output)
        raise CompileError(
            f"the compiler {shlex.join(words)!r} did not accept a kernel: {find_error_line(output)}; set CXX to another"
        )
    try:
        path.chmod(PRIVATE)
        ctypes.CDLL(str(path))
        seal = _seal(path.read_bytes())
        with path.open("ab") as file:
            file.write(seal)
    except OSError as error:
        raise CompileError(
            f"the output of the compiler {shlex.join(words)!r} does not load ({error}); set CXX to another"
            " compiler, or SPIKY_RL_CACHE to a folder from which files may be executed"
        ) from error


def _seal(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _load(path: Path) -> ctypes.CDLL:
    data = path.read_bytes()
    if data[-SEAL:] != _seal(data[:-SEAL]):
        raise OSError("the file is incomplete")
    return ctypes.CDLL(str(path))


def _run(line: Sequence[str], text: str = "", limit: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run the compiler; after ``limit`` seconds, or `TIMEOUT`, kill it and its child processes."""
    limit = TIMEOUT if limit is None else limit
    try:
        with subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(text, limit)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(line, process.returncode, output, errors)
    except subprocess.TimeoutExpired as error:
        raise CompileError(
            f"the compiler {line[0]!r} did not finish within {limit:g} s; set CXX to another"
        ) from error
    except OSError as error:
        raise CompileError(f"the compiler {line[0]!r} does not start: {error}") from error


def find_error_line(text: str) -> str:
    """Return the first line of ``text`` with the word "error", or its last line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
