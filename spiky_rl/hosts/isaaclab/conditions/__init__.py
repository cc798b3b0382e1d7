"""Conditions that a policy is measured under: as trained, and where sensors, motors, the world or its own network fail it.

A condition acts on some environments of a simulation and leaves the others alone, so that all of them are measured in one.
Everything random is drawn from the condition's own seed: the same for every policy, and whatever else is measured beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spiky_rl.config.registry import suggest_name
from spiky_rl.hosts.isaaclab.conditions import damage, faults, sensing
from spiky_rl.hosts.isaaclab.conditions.base import (
    ConditionError,
    EnvGroup,
    EvalCondition,
    Nominal,
)
from spiky_rl.hosts.isaaclab.conditions.body import Friction, Mass, Push, find_robot, make_scene_entity_cfg
from spiky_rl.hosts.isaaclab.conditions.requirements import REQUIREMENTS, ConditionSubject, newton_solver
from spiky_rl.hosts.isaaclab.conditions.sensing import map_values_to_sensors

__all__ = [
    "CONDITIONS",
    "CONDITION_SETS",
    "ROBUSTNESS",
    "ConditionError",
    "ConditionSubject",
    "EnvGroup",
    "EvalCondition",
    "find_robot",
    "find_unavailable",
    "make_scene_entity_cfg",
    "map_values_to_sensors",
    "newton_solver",
    "parse_conditions",
    "remove_network_faults",
    "require_conditions",
    "split_names",
]

log = logging.getLogger("spiky_rl")

ROBUSTNESS: Mapping[str, type[EvalCondition]] = MappingProxyType(
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
CONDITIONS: Mapping[str, type[EvalCondition]] = MappingProxyType(
    {
        **ROBUSTNESS,
        **sensing.DELAY_CONDITIONS,
        "observation_held": sensing.HeldObservations,
        **damage.DAMAGES,
        **faults.FAULTS,
    }
)
"""By name; to add one, write a class and a line here."""
CONDITION_SETS = ("all", "stress")
"""Names for several conditions: those of `ROBUSTNESS`, and all others that a task and an agent can have."""


def parse_conditions(names: str, subject: ConditionSubject | None = None) -> list[str]:
    """The conditions that are asked for; nominal is always one, the first.

    Args:
        names: A comma-separated list of conditions and of `CONDITION_SETS`.
        subject: What ``stress`` is of; None: of a task and an agent that can have all of it.

    Raises:
        ConditionError: There is no such condition, or one is named twice.
    """
    given = split_names(names)
    for name in given:
        if name not in (*CONDITIONS, *CONDITION_SETS):
            hint = suggest_name(name, (*CONDITIONS, *CONDITION_SETS))
            raise ConditionError(
                f"--conditions: {name!r} is not known; choose from {', '.join(CONDITIONS)}, or all, or stress{hint}"
            )
        if given.count(name) > 1:
            raise ConditionError(f"--conditions: {name!r} is named {given.count(name)} times")
    sets = {"all": list(ROBUSTNESS), "stress": _stress(subject) if "stress" in given else []}
    return list(dict.fromkeys(["nominal", *(each for name in given for each in sets.get(name, [name]))]))


def split_names(names: str) -> list[str]:
    """The conditions and sets that ``names`` lists with commas."""
    return [name.strip() for name in names.split(",")]


def _stress(subject: ConditionSubject | None) -> list[str]:
    """What the set ``stress`` is of a ``subject``; None: of one that can have all of it."""
    wanted = [name for name in CONDITIONS if name not in ROBUSTNESS]
    if subject is None or not (left_out := find_unavailable(wanted, subject)):
        return wanted
    log.info("stress leaves out on %s: %s", subject.task, _group_by_reason(left_out))
    return [name for name in wanted if name not in left_out]


def find_unavailable(names: Sequence[str], subject: ConditionSubject) -> dict[str, str]:
    """Those of the conditions ``names`` that a ``subject`` cannot have, each with the first reason."""
    reasons = {need: reason for need, has in REQUIREMENTS.items() if (reason := has(subject))}
    return {
        name: next(reasons[need] for need in CONDITIONS[name].requirements if need in reasons)
        for name in names
        if any(need in reasons for need in CONDITIONS[name].requirements)
    }


def require_conditions(names: Sequence[str], subject: ConditionSubject) -> None:
    """Raise ConditionError where a ``subject`` cannot be put under one of the conditions ``names``."""
    refused = find_unavailable(names, subject)
    if refused:
        others = ", ".join(name for name in names if name not in refused)
        raise ConditionError(f"--conditions: {_group_by_reason(refused, subject.task)}; without: {others}")


def remove_network_faults(selected: Sequence[str], names: str, frozen_by: str) -> list[str]:
    """Return the ``selected`` conditions without those that change a network.

    Args:
        selected: Names of conditions.
        names: The user's list that they were selected by.
        frozen_by: The flag that forbids changes of the network.

    Raises:
        ConditionError: The user names such a condition.
    """
    removed = [name for name in selected if issubclass(CONDITIONS[name], faults.NetworkFault)]
    if named := [name for name in removed if name in split_names(names)]:
        raise ConditionError(
            f"{frozen_by}: {named[0]!r} changes a network in single precision; leave it out of --conditions"
        )
    if removed:
        log.info("%s leaves out: %s", frozen_by, ", ".join(removed))
    return [name for name in selected if name not in removed]


def _group_by_reason(refused: Mapping[str, str], task: str = "") -> str:
    """Conditions by the reason why they cannot be had."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    where = f" cannot be had on {task}" if task else ""
    return "; ".join(f"{', '.join(names)}{where}: {reason}" for reason, names in by_reason.items())
