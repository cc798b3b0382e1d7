"""``spiky verify_gpu``: run all checks that need a GPU, and write one page of results.

The start needs only Python, and reports missing packages first.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterable
from importlib.util import find_spec

REQUIRED = (
    *("torch", "numpy", "yaml", "pytest"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection"),
)
"""Modules that every step needs, also the tests of the kernels; pydantic's dependencies are listed because some machines lack them."""
FURTHER = (
    *("cupy", "isaaclab", "rsl_rl", "skrl", "scipy", "networkx"),
    *("tensorboard", "matplotlib", "spikingjelly", "snntorch", "norse"),
)
"""Modules that single steps, tests or peers need."""
PROGRAMS = ("compute-sanitizer",)
"""Programs that single steps need; this one is part of NVIDIA's CUDA toolkit."""
REMEDY = "make setup installs them all"


def find_missing(modules: Iterable[str]) -> list[str]:
    """Return the ``modules`` that are not installed."""
    return [name for name in modules if find_spec(name) is None]


def find_missing_programs(programs: Iterable[str]) -> list[str]:
    """Return the ``programs`` that are not on the path."""
    return [name for name in programs if shutil.which(name) is None]


def main() -> int:
    """Report missing packages, then verify; return exit code 2 if no step could run."""
    if missing := find_missing(REQUIRED):
        sys.stderr.write(f"error: not installed: {', '.join(missing)}; {REMEDY}\n")
        return 2
    further, programs = find_missing(FURTHER), find_missing_programs(PROGRAMS)
    for missing, remedy in ((further, REMEDY), (programs, "NVIDIA's CUDA toolkit has them")):
        if missing:
            sys.stderr.write(
                f"not installed: {', '.join(missing)}; steps that need them fail or are left out; {remedy}\n"
            )
    return importlib.import_module("benchmarks.verify_gpu").main()
