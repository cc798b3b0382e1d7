"""``verify_gpu.py`` begins here, where nothing but Python is needed yet: its first line says which packages are missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec

REQUIRED = (
    *("torch", "numpy", "yaml", "pytest"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection"),
)
"""Modules without which no step runs, the tests of the kernels included; those of pydantic are copied alone to some machines."""
FURTHER = (
    *("cupy", "isaaclab", "rsl_rl", "skrl", "scipy", "networkx"),
    *("tensorboard", "matplotlib", "spikingjelly", "snntorch", "norse"),
)
"""Modules without which a step fails or a test or a peer is left out."""
REMEDY = "make setup installs them all"


def find_missing(modules: Iterable[str]) -> list[str]:
    """Return those of the ``modules`` that are not installed."""
    return [name for name in modules if find_spec(name) is None]


def main() -> int:
    """Say what is missing, then verify; exit code 2 where no step would run."""
    if missing := find_missing(REQUIRED):
        sys.stderr.write(f"error: not installed: {', '.join(missing)}; {REMEDY}\n")
        return 2
    if missing := find_missing(FURTHER):
        print(
            f"not installed: {', '.join(missing)}; what needs them fails or is left out; {REMEDY}", flush=True
        )
    from benchmarks import verify_gpu

    return verify_gpu.main()
