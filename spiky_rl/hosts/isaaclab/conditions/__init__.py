"""Conditions that a policy is measured under: as trained, and where sensors, motors, the world or its own network fail it.

A condition acts on some environments of a simulation and leaves the others alone, so that all of them are measured in one.
Everything random is drawn from the condition's own seed: the same for every policy, and whatever else is measured beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spiky_rl.config.registry import nearest
from spiky_rl.hosts.isaaclab.conditions import damage, faults, sensing
from spiky_rl.hosts.isaaclab.conditions.base import Condition, ConditionError, Group, Nominal, drawing
from spiky_rl.hosts.isaaclab.conditions.body import Friction, Mass, Push, entity, robot_of
from spiky_rl.hosts.isaaclab.conditions.requirements import REQUIREMENTS, Subject, newton_solver
from spiky_rl.hosts.isaaclab.conditions.sensing import sensors_of

__all__ = [
    "CONDITIONS",
    "ROBUSTNESS",
    "SETS",
    "Condition",
    "ConditionError",
    "Group",
    "Subject",
    "chosen",
    "drawing",
    "entity",
    "listed",
    "missing",
    "newton_solver",
    "require",
    "robot_of",
    "sensors_of",
]

log = logging.getLogger("spiky_rl")

ROBUSTNESS: Mapping[str, type[Condition]] = MappingProxyType(
    {
        "nominal": Nominal,
        "observation_noise": sensing.ObservationNoise,
        "sensor_dropout": sensing.SensorDropout,
        "sensor_loss": sensing.SensorLoss,
        "push": Push,
        "mass": Mass,
        "friction": Friction,
    }
)
"""What nearly every task can be put under, by name: `all` of a command line, as it has always been."""
CONDITIONS: Mapping[str, type[Condition]] = MappingProxyType(
    {
        **ROBUSTNESS,
        **sensing.DELAYED,
        "observation_held": sensing.ObservationHeld,
        **damage.DAMAGES,
        **faults.FAULTS,
    }
)
"""By name; to add one, write a class and a line here."""
SETS = ("all", "stress")
"""Names for several conditions: those of `ROBUSTNESS`, and all others that a task and an agent can have."""


def chosen(names: str, subject: Subject | None = None) -> list[str]:
    """The conditions that are asked for; nominal is always one, the first.

    Args:
        names: A comma-separated list of conditions and of `SETS`.
        subject: What ``stress`` is of; None: of a task and an agent that can have all of it.

    Raises:
        ConditionError: There is no such condition, or one is named twice.
    """
    given = listed(names)
    for name in given:
        if name not in (*CONDITIONS, *SETS):
            hint = nearest(name, (*CONDITIONS, *SETS))
            raise ConditionError(
                f"--conditions: {name!r} is not known; choose from {', '.join(CONDITIONS)}, or all, or stress{hint}"
            )
        if given.count(name) > 1:
            raise ConditionError(f"--conditions: {name!r} is named {given.count(name)} times")
    sets = {"all": list(ROBUSTNESS), "stress": _stress(subject) if "stress" in given else []}
    return list(dict.fromkeys(["nominal", *(each for name in given for each in sets.get(name, [name]))]))


def listed(names: str) -> list[str]:
    """The conditions and sets that ``names`` lists with commas."""
    return [name.strip() for name in names.split(",")]


def _stress(subject: Subject | None) -> list[str]:
    """What the set ``stress`` is of a ``subject``; None: of one that can have all of it."""
    wanted = [name for name in CONDITIONS if name not in ROBUSTNESS]
    if subject is None or not (left_out := missing(wanted, subject)):
        return wanted
    log.info("stress leaves out on %s: %s", subject.task, _reasons(left_out))
    return [name for name in wanted if name not in left_out]


def missing(names: Sequence[str], subject: Subject) -> dict[str, str]:
    """Those of the conditions ``names`` that a ``subject`` cannot have, each with the first reason."""
    reasons = {need: reason for need, has in REQUIREMENTS.items() if (reason := has(subject))}
    return {
        name: next(reasons[need] for need in CONDITIONS[name].needs if need in reasons)
        for name in names
        if any(need in reasons for need in CONDITIONS[name].needs)
    }


def require(names: Sequence[str], subject: Subject) -> None:
    """Raise ConditionError where a ``subject`` cannot be put under one of the conditions ``names``."""
    refused = missing(names, subject)
    if refused:
        others = ", ".join(name for name in names if name not in refused)
        raise ConditionError(f"--conditions: {_reasons(refused, subject.task)}; without: {others}")


def _reasons(refused: Mapping[str, str], task: str = "") -> str:
    """Conditions by the reason why they cannot be had."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    where = f" cannot be had on {task}" if task else ""
    return "; ".join(f"{', '.join(names)}{where}: {reason}" for reason, names in by_reason.items())
