"""Learners: one package per training library, and their common code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.packages import list_packages, load_package

if TYPE_CHECKING:
    from spiky_rl.learners.base import Learner

DEFAULT_LEARNER = "rsl_rl"
"""Name of the default learner."""


def list_learners() -> tuple[str, ...]:
    """Return the names of all learners, sorted. Imports none of them."""
    return list_packages("learners")


def get_learner(name: str) -> Learner:
    """Return the learner ``name``. Its library is imported only when it trains."""
    return load_package("learners", name)
