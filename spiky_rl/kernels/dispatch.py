"""The one place where a backend is chosen.

A backend is a contract: one that is named runs, or raises with the reason and the remedy. Only ``auto`` chooses, and it
logs once what it chose.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from pathlib import Path
from types import ModuleType

from spiky_rl.registry import RegistryError, nearest

log = logging.getLogger(__name__)

PREFERENCE = ("torch",)
"""The order in which ``auto`` tries the backends."""


def names() -> list[str]:
    """All backends: the files of this room that end in ``_backend``."""
    return sorted(path.stem.removesuffix("_backend") for path in Path(__file__).parent.glob("*_backend.py"))


@cache
def backend(name: str) -> ModuleType:
    """The backend called ``name``, or the first that is available for ``auto``."""
    if name == "auto":
        for candidate in PREFERENCE:
            module = importlib.import_module(f"spiky_rl.kernels.{candidate}_backend")
            if module.available() is None:
                log.info("neurons run on the %s backend", candidate)
                return module
    if name not in names():
        raise RegistryError(
            f"unknown backend {name!r}; choose from auto, {', '.join(names())}{nearest(name, names())}"
        )
    module = importlib.import_module(f"spiky_rl.kernels.{name}_backend")
    if reason := module.available():
        raise RegistryError(f"backend {name!r} is not available: {reason}")
    return module
