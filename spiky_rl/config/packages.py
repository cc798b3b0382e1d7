"""Hosts and learners: packages that are found by their folders and hold one object each."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


@cache
def list_packages(kind: str) -> tuple[str, ...]:
    """Return the names of all packages of a ``kind``, ``hosts`` or ``learners``, sorted, without importing them.

    A package counts if it has a module of the kind's name in the singular, such as ``learners/rsl_rl/learner.py``.
    """
    return tuple(sorted(path.parent.name for path in (PACKAGE / kind).glob(f"*/{kind[:-1]}.py")))


@cache
def load_package(kind: str, name: str) -> Any:
    """Import the package ``name`` of a ``kind`` and return its object, such as ``LEARNER`` of ``learners/rsl_rl/learner.py``."""
    module = importlib.import_module(f"spiky_rl.{kind}.{name}.{kind[:-1]}")
    return getattr(module, kind[:-1].upper())
