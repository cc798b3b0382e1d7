"""The host's C++ compiler, called once per text: plain-C shared objects in a cache.

A cache entry is named by everything it depends on: text, flags, compiler and CPU. It is compiled beside its place and moved
into it, so processes that compile the same text at once do not disturb each other. Folder and entries are this user's alone;
what another user owns or may write is not loaded.
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
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from spiky_rl.config import files
from spiky_rl.config.registry import UserError
from spiky_rl.kernels import ownership

log = logging.getLogger(__name__)

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",  # a neuron's forward is bit-equal to torch's; matrix products name their multiply-adds
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)
TIMEOUT = 300.0
"""Seconds that a compiler has for a text: three or four on an idle machine, a minute on one with ten times as much to do."""
VERSION_TIMEOUT = 20.0
"""Seconds that it has to tell its version, which is asked for first: one that never answers is known by then."""
SEAL = 32
"""Bytes of the digest at the end of a cache entry: to load half of one would end the process. No protection: anyone can
write a digest."""


class CompileError(UserError):
    """There is no compiler, or it did not accept the text, or it did not come back."""


@cache
def find_compiler() -> tuple[str, ...] | None:
    """The compiler: $CXX if set, else the first of g++, clang++ and c++; None: there is none."""
    if chosen := os.environ.get("CXX", "").strip():
        try:
            words = tuple(shlex.split(chosen))
        except ValueError:  # a quote that is not closed
            return None
        return words if shutil.which(words[0]) else None
    first = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return (first,) if first else None


def get_missing_message() -> str:
    """The message where there is no compiler."""
    if chosen := os.environ.get("CXX", "").strip():
        return f"the compiler that CXX names, {chosen!r}, does not exist; unset CXX or correct it"
    return "there is no C++ compiler; install g++ (apt install g++) or clang, or set CXX"


@cache
def get_compiler_identity() -> str:
    """Compiler, its version, and the CPU that -march=native means."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        cpu = platform.processor()
    return f"{find_compiler()} {version()} {platform.machine()} {cpu}"


@cache
def version() -> str:
    """Return what the compiler says of its version. Raises CompileError where it does not start."""
    words = find_compiler()
    assert words is not None
    return _run([*words, "--version"], limit=VERSION_TIMEOUT).stdout


def refuse_foreign_cache() -> None:
    """Raise UserError as `folder` will, without making one: what can be said before there is anything to compile."""
    try:
        wanted = _wanted()
        exists = find_compiler() is not None and wanted.is_dir()
    except (OSError, files.NoHomeError):  # no cache that can be read: `folder` says so and takes another
        return
    if exists:
        ownership.check_owner(wanted)


def _wanted() -> Path:
    return files.cache_folder() / "kernels"


@cache
def get_cache_folder() -> Path:
    """Where shared objects are kept: the cache, or a temporary folder where that cannot be written.

    Raises UserError where the cache is another user's, or others may write to it.
    """
    try:
        wanted = _wanted()
        ownership.create_private_folder(wanted)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except (OSError, files.NoHomeError) as error:
        instead = Path(tempfile.mkdtemp(prefix="spiky_rl-kernels-"))
        atexit.register(shutil.rmtree, instead, ignore_errors=True)
        log.warning(
            "kernels are compiled anew in every process, because the cache cannot be written (%s); set SPIKY_RL_CACHE to a"
            " folder that can",
            error,
        )
        return instead


@cache
def compile_library(text: str, of: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The shared object of a C++ text; ``of``: whose kernels these are; ``flags``: of the compiler, besides `FLAGS`.

    Raises `CompileError` with the compiler's words.
    """
    if find_compiler() is None:
        raise CompileError(get_missing_message())
    key = hashlib.sha256(
        "\0".join([text, *FLAGS, *flags, get_compiler_identity(), "sealed"]).encode()
    ).hexdigest()[:24]
    path = get_cache_folder() / f"{key}.so"
    if path.is_file():
        ownership.check_owner(path)
        try:
            return _load(path)
        except OSError as error:
            log.warning("%s is damaged and compiled again (%s)", path, error)
    log.info("compiling the kernels of %s with %s, once: some seconds", of, shlex.join(find_compiler() or ()))
    try:
        files.write_atomically(path, lambda beside: compile_to(beside, text, flags))
        return _load(path)
    except OSError as error:
        raise CompileError(
            f"kernels cannot be kept in {path.parent} ({error}); set SPIKY_RL_CACHE to another folder"
        ) from error


def compile_to(path: Path, text: str, flags: tuple[str, ...] = ()) -> None:
    """Compile, with OpenMP where the compiler has it, and load what came out, so that only what loads is kept.

    Args:
        path: Where the shared object is put.
        text: C++.
        flags: Flags of the compiler, besides `FLAGS`.
    """
    words = find_compiler()
    assert words is not None
    last = ""
    for parallel in (["-fopenmp"], []):
        result = _run(
            [*words, *FLAGS, *parallel, "-x", "c++", "-", "-x", "none", *flags, "-o", str(path)], text
        )
        if result.returncode == 0:
            try:
                path.chmod(ownership.PRIVATE)
                ctypes.CDLL(str(path))
                seal = _seal(path.read_bytes())
                with path.open("ab") as file:
                    file.write(seal)
                return
            except OSError as error:
                raise CompileError(
                    f"what the compiler {shlex.join(words)!r} wrote does not load ({error}); set CXX to another"
                    " compiler, or SPIKY_RL_CACHE to a folder whose files may be executed"
                ) from error
        last = last or result.stderr or result.stdout or f"exit code {result.returncode}"
    log.debug("the compiler's words:\n%s", last)
    raise CompileError(
        f"the compiler {shlex.join(words)!r} did not accept a kernel: {complaint(last)}; set CXX to another"
    )


def _seal(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _load(path: Path) -> ctypes.CDLL:
    data = path.read_bytes()
    if data[-SEAL:] != _seal(data[:-SEAL]):
        raise OSError("it is not whole")
    return ctypes.CDLL(str(path))


def _run(line: Sequence[str], text: str = "", limit: float | None = None) -> subprocess.CompletedProcess[str]:
    """A call of the compiler. It and all that it starts end with a call that takes longer than ``limit``, or `TIMEOUT`."""
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


def complaint(text: str) -> str:
    """Return the first error that a compiler names in ``text``, or the last that it says."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no word")
