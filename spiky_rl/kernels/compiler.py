"""The host's C++ compiler, called once per text: plain-C shared objects in a cache.

A cache entry is named by everything it depends on: text, flags, compiler and CPU. It is compiled beside its place and moved
into it, so processes that compile the same text at once do not disturb each other.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from spiky_rl import files
from spiky_rl.registry import UserError

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


class CompileError(UserError):
    """There is no compiler, or it did not accept the text."""


@cache
def command() -> tuple[str, ...] | None:
    """The compiler: $CXX if set, else the first of g++, clang++ and c++; None: there is none."""
    if chosen := os.environ.get("CXX"):
        words = tuple(shlex.split(chosen))
        return words if shutil.which(words[0]) else None
    found = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return (found,) if found else None


def missing() -> str:
    """What to say where there is no compiler."""
    if chosen := os.environ.get("CXX"):
        return f"the compiler that CXX names, {chosen!r}, does not exist; unset CXX or correct it"
    return "there is no C++ compiler; install g++ (apt install g++) or clang, or set CXX"


@cache
def identity() -> str:
    """Compiler, its version, and the CPU that -march=native means."""
    words = command()
    assert words is not None
    version = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    except OSError:
        cpu = platform.processor()
    return f"{words} {version} {platform.machine()} {cpu}"


@cache
def folder() -> Path:
    """Where shared objects are kept: the cache, or a temporary folder where that cannot be written."""
    wanted = files.cache_folder() / "kernels"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError as error:
        instead = Path(tempfile.mkdtemp(prefix="spiky_rl-kernels-"))
        log.warning(
            "kernels are compiled anew in every process: %s cannot be written (%s)", wanted, error.strerror
        )
        return instead


@cache
def library(text: str) -> ctypes.CDLL:
    """The shared object of a C++ text. Raises `CompileError` with the compiler's last words."""
    if command() is None:
        raise CompileError(missing())
    key = hashlib.sha256("\0".join([text, *FLAGS, identity()]).encode()).hexdigest()[:24]
    path = folder() / f"{key}.so"
    if path.is_file():
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            log.warning("%s is damaged and compiled again (%s)", path, error)
    files.write(path, lambda beside: compile_to(beside, text))
    return ctypes.CDLL(str(path))


def compile_to(path: Path, text: str) -> None:
    """Compile, with OpenMP where the compiler has it."""
    words = command()
    assert words is not None
    last = ""
    for parallel in (["-fopenmp"], []):
        line = [*words, *FLAGS, *parallel, "-x", "c++", "-", "-o", str(path)]
        try:
            result = subprocess.run(
                line, input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompileError(f"the compiler {shlex.join(words)!r} failed: {error}") from error
        if result.returncode == 0:
            return
        last = last or result.stderr or f"exit code {result.returncode}"
    raise CompileError(
        f"the compiler {shlex.join(words)!r} did not accept a kernel; its last words:\n{_tail(last)}"
    )


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
