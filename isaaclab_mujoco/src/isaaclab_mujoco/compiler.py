"""Compilation of C++ into a shared library, once for each text, compiler and CPU.

The libraries lie in ISAACLAB_MUJOCO_CACHE, or in ``isaaclab_mujoco`` in the user's cache folder. A library is written beside its
place and moved into it, so that processes that compile the same text at once do not disturb each other. The process loads no
file that another user owns or may write: a library runs with all rights of the user who loads it.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from isaaclab_mujoco.errors import CompileError, PhysicsError

log = logging.getLogger(__name__)

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",  # no multiply-add that the text does not name: the same bits from every compiler
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)
OPENMP_TEST = '#include <omp.h>\nextern "C" int test() { return omp_get_max_threads(); }'
"""C++ that only a compiler with OpenMP accepts and links."""
CACHE = "ISAACLAB_MUJOCO_CACHE"
"""Environment variable that names the folder of the libraries."""
PRIVATE = 0o700
"""Mode of the folder and its libraries."""
TIMEOUT_S = 300.0
"""Time limit of a compilation in seconds: it takes 4 s on an idle machine, and a minute on one with ten times the load."""
VERSION_TIMEOUT_S = 20.0
"""Time limit of ``--version`` in seconds; a compiler that hangs is found here."""
DIGEST_BYTES = 32
"""Length of the digest at the end of a library. It detects a truncated file, which would end the process; it is no protection."""


@cache
def compile_library(text: str, name: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the shared library of a C++ ``text``, compiled with `FLAGS` and ``flags``, or from the cache.

    Raises CompileError with the compiler's message, and PhysicsError if another user could have written the library. ``name`` is
    for messages.
    """
    compiler = get_compiler()
    parts = [text, *FLAGS, *get_openmp_flags(), *flags, get_compiler_identity()]
    path = get_cache_folder() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
    if path.is_file():
        check_owner(path)
        try:
            return _load(path)
        except OSError as error:
            log.warning("%s is damaged and compiled again (%s)", path, error)
    log.info("compiling %s with %s: once, some seconds", name, shlex.join(compiler))
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            new = Path(folder) / path.name
            compile_to(new, text, flags)
            os.replace(new, path)
        return _load(path)
    except OSError as error:
        raise CompileError(
            f"cannot write the compiled library to {path.parent} ({error}); set {CACHE} to another folder"
        ) from error


def compile_to(path: Path, text: str, flags: tuple[str, ...] = ()) -> None:
    """Compile a C++ ``text`` to the file ``path``, with OpenMP if the compiler has it, and check that the result loads."""
    words = get_compiler()
    line = [*words, *FLAGS, *get_openmp_flags(), "-x", "c++", "-", "-x", "none", *flags, "-o", str(path)]
    result = _run(line, text)
    if result.returncode != 0:
        message = result.stderr or result.stdout or f"exit code {result.returncode}"
        log.debug("the compiler's message:\n%s", message)
        raise CompileError(
            f"the compiler {shlex.join(words)!r} failed: {find_error_line(message)}; set CXX to another"
        )
    path.chmod(PRIVATE)
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        raise CompileError(
            f"the library that the compiler {shlex.join(words)!r} wrote does not load ({error}); set CXX to another"
            f" compiler, or {CACHE} to a folder whose files may be executed"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).digest()
    with path.open("ab") as file:  # appended: the library is mapped
        file.write(digest)


@cache
def get_compiler() -> tuple[str, ...]:
    """Return the command of the compiler: $CXX if set, else the first of g++, clang++ and c++. Raises CompileError."""
    if chosen := os.environ.get("CXX", "").strip():
        with suppress(ValueError):  # an unclosed quote
            words = tuple(shlex.split(chosen))
            if shutil.which(words[0]):
                return words
        raise CompileError(
            f"the compiler that CXX names, {chosen!r}, does not exist; unset CXX or correct it"
        )
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return (name,)
    raise CompileError("there is no C++ compiler; install g++ (apt install g++) or clang, or set CXX")


@cache
def get_compiler_identity() -> str:
    """Return a text that differs between compilers, their versions, and CPUs that ``-march=native`` distinguishes."""
    words = get_compiler()
    version = _run([*words, "--version"], limit=VERSION_TIMEOUT_S).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        cpu = platform.processor()
    return f"{words} {version} {platform.machine()} {cpu}"


@cache
def get_openmp_flags() -> tuple[str, ...]:
    """Return the compiler's flags for OpenMP, empty if it has none; the answer takes 0.05 s and is the same for all texts of a process."""
    with tempfile.TemporaryDirectory(prefix=".openmp-", dir=get_cache_folder()) as folder:
        line = [*get_compiler(), *FLAGS, "-fopenmp", "-x", "c++", "-", "-o", f"{folder}/test.so"]
        return ("-fopenmp",) if _run(line, OPENMP_TEST).returncode == 0 else ()


@cache
def get_cache_folder() -> Path:
    """Return the folder of the libraries, or a temporary folder if that cannot be written.

    Raises PhysicsError if the folder belongs to another user or others may write to it.
    """
    try:
        if own := os.environ.get(CACHE):
            folder = Path(own).absolute()
        else:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isaaclab_mujoco"
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        check_owner(folder)
        folder.chmod(PRIVATE)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home folder
        instead = Path(tempfile.mkdtemp(prefix="isaaclab_mujoco-"))
        atexit.register(shutil.rmtree, instead, ignore_errors=True)
        log.warning(
            "the cache cannot be written (%s), so every process compiles anew; set %s to another folder",
            error,
            CACHE,
        )
        return instead


def check_owner(path: Path) -> None:
    """Raise PhysicsError if ``path`` belongs to another user or others may write to it."""
    status = path.stat()
    remedy = f"set {CACHE} to a folder of your own"
    if status.st_uid != os.geteuid():
        raise PhysicsError(
            f"{path}: belongs to user {status.st_uid}, and code is loaded from user {os.geteuid()} alone; {remedy}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PhysicsError(
            f"{path}: other users may write it (mode {stat.S_IMODE(status.st_mode):o}), so no code is loaded from it; remove it"
            f" (rm -r {shlex.quote(str(path))}), or {remedy}"
        )


def find_error_line(text: str) -> str:
    """Return the first error in a compiler's message, or its last line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")


def _load(path: Path) -> ctypes.CDLL:
    """Return the library in a file of the cache. Raises OSError if its digest does not fit, as after a write that was cut off."""
    data = path.read_bytes()
    if data[-DIGEST_BYTES:] != hashlib.sha256(data[:-DIGEST_BYTES]).digest():
        raise OSError("it is truncated")
    return ctypes.CDLL(str(path))


def _run(line: Sequence[str], text: str = "", limit: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run the compiler with ``text`` as its input; kill it and its children after ``limit`` seconds."""
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
