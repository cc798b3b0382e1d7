"""Checks of the environment's configuration, before a simulator starts, for values that no simulation accepts."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from spiky_rl.config.options import (
    LARGEST_FLOAT,
    LARGEST_INTEGER,
    UserError,
    check_number,
    shorten,
)
from spiky_rl.hosts.base import require_obs_groups
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

BOUNDS: dict[str, dict[str, Any]] = {
    "sim.dt": {"kind": float, "low": 1e-6, "high": 1.0},
    "sim.render_interval": {"kind": int, "low": 1, "high": 100_000},
    "scene.env_spacing": {"kind": float, "low": 0.0, "high": 1e6},
    "decimation": {"kind": int, "low": 1, "high": 100_000},
    "episode_length_s": {"kind": float, "above": 0.0, "high": 1e9},
}
"""Fields of every task's configuration, and their bounds."""
MIN_NORMAL_FLOAT = 1.2e-38
"""Smallest normal 32-bit float."""
COUNT = re.compile(r"(^|_)(iterations|substeps)$")
"""Pattern of the names of a solver's counts."""
NOT_NEGATIVE = re.compile(
    r"\.(mass|density|stiffness|damping|armature|((static|dynamic|viscous)_)?friction|(effort|velocity)_limit(_sim)?)(\.|$)"
)
"""Pattern of the paths of quantities that must not be negative."""
MANAGERS = ("observations", "actions", "rewards", "terminations", "events", "commands", "curriculum")
"""Managers whose terms may be null. The terms of the first one, observations, are in groups, which may be null too."""
TASKS_PACKAGE = "isaaclab_tasks"
FAMILY_PARTS = 3
"""Number of leading parts of a module's name that identify a family of tasks, such as ``isaaclab_tasks.core.velocity``."""


def check_bounds(env_cfg: EnvCfg) -> None:
    """Raise UserError with field and bounds if a field of `BOUNDS` is out of range in ``env_cfg``."""
    for path, bounds in BOUNDS.items():
        value = functools.reduce(lambda node, name: getattr(node, name, None), path.split("."), env_cfg)
        if isinstance(value, int | float):
            check_number(f"env.{path}", value, **bounds)


def check_values(path: str, value: object, current: object) -> None:
    """Raise UserError with the field and the allowed values for numbers that are non-finite or out of range.

    Args:
        path: Path of the field.
        value: New value.
        current: Present value; if it is infinite, the new one may be too.
    """
    if isinstance(value, Mapping):
        present = current if isinstance(current, Mapping) else {}
        for key, number in value.items():
            check_values(f"{path}.{key}", number, present.get(key))
        return
    is_list = isinstance(value, list | tuple)
    numbers = value if is_list else (value,)
    if isinstance(current, tuple) and all(isinstance(number, int | float) for number in current):
        if is_list and len(numbers) != len(current):
            raise UserError(
                f"{path}: expected {len(current)} numbers such as {current}, got {shorten(value)}"
            )
    for number in numbers:
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_field_number(path, number, current)


def _check_representable(path: str, number: float, current: object) -> None:
    """Raise UserError if a simulator's 64-bit integers or 32-bit floats cannot hold ``number``."""
    if isinstance(number, int):
        if abs(number) > LARGEST_INTEGER:
            raise UserError(
                f"{path}: {shorten(number)} is out of range; it must be at most {LARGEST_INTEGER}"
            )
    elif not math.isfinite(number):
        if not (math.isinf(number) and isinstance(current, float) and math.isinf(current)):
            raise UserError(f"{path}: expected a finite number, got {number}")
    elif number and not MIN_NORMAL_FLOAT <= abs(number) <= LARGEST_FLOAT:
        raise UserError(
            f"{path}: {number} is out of range; allowed: 0, or {MIN_NORMAL_FLOAT} to {LARGEST_FLOAT} (a float of 32 bits)"
        )


def _check_field_number(path: str, number: float, current: object) -> None:
    """Raise UserError if ``number`` at ``path`` is out of range; ``current``: the present value."""
    _check_representable(path, number, current)
    name = path.rpartition(".")[2]
    if COUNT.search(name):
        check_number(path, number, int, low=1, high=100_000)
    elif is_positive(current) and path.startswith("env.sim.") and path.removeprefix("env.") not in BOUNDS:
        # a solver setting that is positive now must not become negative, and a count must stay at least 1
        check_number(path, number, type(number), low=1 if isinstance(current, int) else 0.0)
    elif NOT_NEGATIVE.search(path):
        check_number(path, number, type(number), low=0)


def get_fields(node: object) -> dict[str, Any]:
    """Return the fields of ``node``, a config or a dict; empty for a plain value."""
    if isinstance(node, Mapping):
        return dict(node)
    return dict(vars(node)) if hasattr(node, "__dataclass_fields__") else {}


def is_positive(value: object) -> bool:
    """Return whether ``value`` is a number above zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def check_null_allowed(path: str, current: object) -> None:
    """Raise UserError if a field must not be null; only terms of managers, their groups and scene entities may be null.

    Args:
        path: Path of the field.
        current: Present value of the field.
    """
    _, owner, *names = path.split(".")
    is_entity = owner == "scene" and len(names) == 1
    max_names = 2 if owner == "observations" else 1
    is_term_or_group = owner in MANAGERS and len(names) <= max_names
    if is_entity or is_term_or_group:
        return
    raise UserError(
        f"{path}: null given; allowed: a {type(current).__name__}, set by its fields; null is allowed for terms of"
        f" {', '.join(MANAGERS)}, and for scene entities"
    )


def check_scene(env_cfg: EnvCfg, absent: Collection[str]) -> None:
    """Raise UserError with entity and term if a manager's term refers to an absent scene entity.

    Args:
        env_cfg: The task's configuration.
        absent: Names of scene entities that were set to null.
    """
    if not absent:
        return
    for manager in MANAGERS:
        for path, name in _find_entity_references(f"env.{manager}", getattr(env_cfg, manager, None)):
            if name in absent:
                raise UserError(
                    f"env.scene.{name}: null given, but {path} refers to it; set that to null too, or keep both"
                )


def _find_entity_references(path: str, node: object) -> Iterator[tuple[str, str]]:
    """Yield the paths of terms below ``node`` with the names of the scene entities that they refer to."""
    fields = get_fields(node)
    function = fields.get("func")
    if callable(function):
        # the default of a parameter that the term does not set may refer to an entity too
        set_params = fields.get("params") or {}
        parameters = inspect.signature(function).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.name not in set_params}
        fields = {**defaults, **fields}
    for key, value in fields.items():
        if key == "asset_name" and isinstance(value, str):
            yield path, value
        elif type(value).__name__ == "SceneEntityCfg":
            yield path, value.name
        else:
            yield from _find_entity_references(path if key == "params" else f"{path}.{key}", value)


def check_symmetry(env_cfg: EnvCfg, function: str | None) -> None:
    """Raise UserError if a symmetry function belongs to another task of Isaac Lab.

    Args:
        env_cfg: The task's configuration.
        function: ``symmetry_cfg.data_augmentation_func`` of the agent, or None.
    """

    def get_family(module: str) -> str:
        return ".".join(module.split(".")[:FAMILY_PARTS])

    task_families = [get_family(cls.__module__) for cls in type(env_cfg).__mro__]
    family = get_family((function or "").partition(":")[0])
    prefix = f"{TASKS_PACKAGE}."
    if family.startswith(prefix) and family not in task_families:
        allowed = next(
            (name for name in task_families if name.startswith(prefix)), "a module of the task's own"
        )
        raise UserError(
            f"agent.algorithm.symmetry_cfg.data_augmentation_func: {shorten(function)} is for other tasks; allowed: a function of"
            f" {allowed}, or one of your own"
        )


def get_used_groups(
    observations: object, obs_groups: Mapping[str, Sequence[str]]
) -> tuple[list[str], dict[str, Sequence[str]]]:
    """Return the observation groups of a task, and the groups that each model uses, by role.

    Args:
        observations: The task's configuration of observations.
        obs_groups: ``obs_groups`` of the agent; missing roles get rsl_rl's default.
    """
    known = [name for name, group in vars(observations).items() if group is not None]
    default = {role: [role if role in known else "policy"] for role in ("actor", "critic")}
    return known, {**default, **obs_groups}


def check_obs_groups(env_cfg: EnvCfg, obs_groups: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError with role and available groups for an unknown observation group.

    A task without an observation manager is not checked: its groups are unknown before the first step.

    Args:
        env_cfg: The task's configuration.
        obs_groups: ``obs_groups`` of the agent.
    """
    observations = getattr(env_cfg, "observations", None)
    if observations is None:
        return
    known, used = get_used_groups(observations, obs_groups)
    require_obs_groups(used, known)
