"""Learners: one package per training library, and their common code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spiky_rl.config.errors import UserError
from spiky_rl.config.registry import list_packages, load_package

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


def choose_library(preferred: str, algorithm: str) -> str | None:
    """Return ``preferred`` if the learner of this name has the ``algorithm``; else None, which lets another learner be chosen."""
    return preferred if algorithm in get_learner(preferred).algorithms else None


def select_learner(name: str | None, algorithm: str, agent: str) -> Learner:
    """Return the learner of an agent: the one called ``name``, or else the default or another one with the ``algorithm``.

    ``name`` is the value of ``--rl_library``, and ``agent`` a name for messages. Raises UserError if the learner lacks the algorithm.
    """
    if name is None:
        return _list_able_learners(algorithm)[0]
    learner = get_learner(name)
    require_algorithm(learner, algorithm, agent)
    return learner


def require_algorithm(learner: Learner, algorithm: str, agent: str) -> None:
    """Raise UserError, naming the ``agent``, if the ``learner`` does not have the ``algorithm``."""
    if algorithm not in learner.algorithms:
        raise UserError(
            f"--rl_library {learner.name}: not available for --agent {agent}, whose algorithm is {algorithm.upper()}; allowed:"
            f" {', '.join(able.name for able in _list_able_learners(algorithm))}"
        )


def _list_able_learners(algorithm: str) -> list[Learner]:
    """Return the learners that have the ``algorithm``, the default learner first."""
    learners = [get_learner(name) for name in dict.fromkeys((DEFAULT_LEARNER, *list_learners()))]
    return [learner for learner in learners if algorithm in learner.algorithms]
