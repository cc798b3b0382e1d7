"""Conditions of an evaluation: undisturbed, or with disturbances of sensors, motors, the world or the policy's network.

A condition acts only on its group of environments, so that one simulation measures all conditions. All random numbers come from
the condition's own seed, so they do not depend on the policy or on the other conditions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from spiky_rl.config.registry import suggest_name
from spiky_rl.hosts.isaaclab.condition_names import ROBUSTNESS_NAMES
from spiky_rl.hosts.isaaclab.conditions import damage, faults, sensing
from spiky_rl.hosts.isaaclab.conditions.base import ConditionError, EvalCondition, Nominal
from spiky_rl.hosts.isaaclab.conditions.body import Friction, Mass, Push
from spiky_rl.hosts.isaaclab.conditions.requirements import REQUIREMENTS, ConditionSubject

log = logging.getLogger("spiky_rl")

CONDITIONS: Mapping[str, type[EvalCondition]] = {
    "nominal": Nominal,
    "observation_noise": sensing.ObservationNoise,
    "sensor_dropout": sensing.SensorDropout,
    "sensor_loss": sensing.SensorLoss,
    "push": Push,
    "mass": Mass,
    "friction": Friction,
    **sensing.DELAY_CONDITIONS,
    "observation_held": sensing.HeldObservations,
    **damage.DAMAGES,
    **faults.FAULTS,
}
"""Conditions by name; a new condition needs a class, a line here and its name in `condition_names`."""
CONDITION_SETS = ("all", "stress")
"""Names of sets: the conditions of `ROBUSTNESS_NAMES`, and all others that task and agent support."""


def parse_conditions(names: str, subject: ConditionSubject | None = None) -> list[str]:
    """Return the conditions and the members of `CONDITION_SETS` in the comma-separated ``names``; nominal is always the first.

    Task and agent in ``subject`` limit the set ``stress``. Raises ConditionError if a condition is unknown, or named twice.
    """
    requested = split_names(names)
    for name in requested:
        if name not in (*CONDITIONS, *CONDITION_SETS):
            hint = suggest_name(name, (*CONDITIONS, *CONDITION_SETS))
            raise ConditionError(
                f"--conditions: {name!r}: unknown condition; allowed: {', '.join(CONDITIONS)}, all, stress{hint}"
            )
        if requested.count(name) > 1:
            raise ConditionError(f"--conditions: {name!r} is named {requested.count(name)} times")
    sets = {"all": ROBUSTNESS_NAMES, "stress": _list_stress(subject) if "stress" in requested else []}
    conditions = [condition for name in requested for condition in sets.get(name, [name])]
    return list(dict.fromkeys(["nominal", *conditions]))


def split_names(names: str) -> list[str]:
    """Return the conditions and sets in the comma-separated ``names``."""
    return [name.strip() for name in names.split(",")]


def _list_stress(subject: ConditionSubject | None) -> list[str]:
    """Return the conditions of the set ``stress`` that are available for ``subject``, or all of them if it is None."""
    names = [name for name in CONDITIONS if name not in ROBUSTNESS_NAMES]
    if subject is None or not (unavailable := find_unavailable(names, subject)):
        return names
    log.info("stress leaves out on %s: %s", subject.task, _group_by_reason(unavailable))
    return [name for name in names if name not in unavailable]


def find_unavailable(names: Sequence[str], subject: ConditionSubject) -> dict[str, str]:
    """Return the conditions in ``names`` that are not available for ``subject``, each with the first reason."""
    reasons = {need: find_reason(subject) for need, find_reason in REQUIREMENTS.items()}
    first = {
        name: next(filter(None, map(reasons.get, CONDITIONS[name].requirements)), None) for name in names
    }
    return {name: reason for name, reason in first.items() if reason is not None}


def require_conditions(names: Sequence[str], subject: ConditionSubject) -> None:
    """Raise ConditionError if one of the conditions ``names`` is not available for ``subject``."""
    refused = find_unavailable(names, subject)
    if refused:
        others = ", ".join(name for name in names if name not in refused)
        raise ConditionError(f"--conditions: {_group_by_reason(refused, subject.task)}; without: {others}")


def remove_network_faults(selected: Sequence[str], names: str, frozen_by: str) -> list[str]:
    """Return the ``selected`` conditions without those that change a network, which the flag ``frozen_by`` excludes.

    Raises ConditionError if the user's list ``names`` has a removed condition.
    """
    removed = [name for name in selected if issubclass(CONDITIONS[name], faults.NetworkFault)]
    if named := [name for name in removed if name in split_names(names)]:
        raise ConditionError(
            f"{frozen_by}: {named[0]!r} changes a network in single precision; remove it from --conditions"
        )
    if removed:
        log.info("%s leaves out: %s", frozen_by, ", ".join(removed))
    return [name for name in selected if name not in removed]


def _group_by_reason(refused: Mapping[str, str], task: str = "") -> str:
    """Return a phrase with the ``refused`` conditions grouped by reason, and with the ``task`` unless it is empty."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    where = f" not available on {task}" if task else ""
    return "; ".join(f"{', '.join(names)}{where}: {reason}" for reason, names in by_reason.items())
