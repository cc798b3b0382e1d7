"""What trains a policy: one package for each library, and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.packages import list_packages, load_package

if TYPE_CHECKING:
    from spiky_rl.learners.base import Learner

DEFAULT_LEARNER = "rsl_rl"
"""Trains where a command names no other learner."""


def list_learners() -> tuple[str, ...]:
    """Return the names of all learners, sorted. Imports none of them."""
    return list_packages("learners")


def get_learner(name: str) -> Learner:
    """Return the learner ``name``. Its library is imported only where it trains."""
    return load_package("learners", name)
