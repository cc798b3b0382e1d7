"""Values of an agent that are fine one by one and do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.config.options import RegistryError

NEEDED = {
    "rnd_cfg": ("num_outputs", "predictor_hidden_dims", "target_hidden_dims", "weight"),
    "symmetry_cfg": ("data_augmentation_func",),
}
"""Group of the algorithm -> what it has no default for."""
SCHEDULES = {
    "constant": (),
    "step": ("final_step", "final_value"),
    "linear": ("initial_step", "final_step", "final_value"),
}
"""Mode of RND's weight schedule -> what it needs."""


def check(runner: Mapping[str, Any]) -> None:
    """Refuse a merged specification whose values contradict each other. Raises RegistryError that names the key."""
    actor = runner.get("actor", {})
    if "distribution_cfg" in actor and not (actor["distribution_cfg"] or {}).get("class_name"):
        raise RegistryError(
            "agent.actor.distribution_cfg.class_name: is missing; name one, such as GaussianDistribution"
        )
    _check_distribution(actor.get("distribution_cfg") or {})
    algorithm = runner.get("algorithm", {})
    for group, keys in NEEDED.items():
        settings = algorithm.get(group)
        if settings is not None:
            _need(f"agent.algorithm.{group}", settings, keys)
    schedule = (algorithm.get("rnd_cfg") or {}).get("weight_schedule")
    if schedule is not None:
        path = "agent.algorithm.rnd_cfg.weight_schedule"
        _need(path, schedule, ("mode", *SCHEDULES.get(schedule.get("mode"), ())))
        if schedule["mode"] == "linear" and schedule["initial_step"] >= schedule["final_step"]:
            raise RegistryError(
                f"{path}.final_step: {schedule['final_step']} has to be above initial_step: {schedule['initial_step']}"
            )


def _check_distribution(distribution: Mapping[str, Any]) -> None:
    path = "agent.actor.distribution_cfg"
    limits, first = distribution.get("std_range"), distribution.get("init_std")
    if limits and first is not None and not limits[0] <= first <= limits[1]:
        raise RegistryError(f"{path}.init_std: {first} is out of std_range: {list(limits)}")


def _need(path: str, settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if settings.get(key) in (None, ""):
            raise RegistryError(f"{path}.{key}: is missing; it has no default")
