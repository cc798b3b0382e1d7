"""Checks of the environment's configuration, before a simulator starts, for values that no simulation accepts."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from spiky_rl.config.options import (
    LARGEST_FLOAT,
    LARGEST_INTEGER,
    UserError,
    check_number,
    shorten,
    suggest_name,
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
SOLVER = "env.sim.physics.solver_cfg"
"""Path of a solver's configuration."""
SOLVER_CHOICES = {
    "integrator": ("euler", "rk4", "implicit", "implicitfast", "0", "1", "2", "3"),
    "solver": ("cg", "newton", "1", "2"),
    "cone": ("pyramidal", "elliptic", "0", "1"),
}
"""Fields of MuJoCo-Warp's solver configuration, and their values: names, in upper or lower case, and MuJoCo's constants for them."""
ZERO_COUNTS = ("update_data_interval",)
"""Counts of a solver that are positive by default and may be 0."""
MIN_NORMAL_FLOAT = 1.2e-38
"""Smallest normal 32-bit float."""
COUNT_PATTERN = re.compile(r"(^|_)(iterations|substeps)$")
"""Pattern of the names of a solver's counts."""
NONNEGATIVE_PATTERN = re.compile(
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
        value: Any = env_cfg
        for name in path.split("."):
            value = getattr(value, name, None)
        if isinstance(value, int | float):
            check_number(f"env.{path}", value, **bounds)


def check_solver_names(env_cfg: EnvCfg) -> None:
    """Raise UserError with field and allowed values if a field of `SOLVER_CHOICES` has another value in ``env_cfg``."""
    solver_cfg = getattr(getattr(env_cfg.sim, "physics", None), "solver_cfg", None)
    if type(solver_cfg).__name__ != "MJWarpSolverCfg":
        return
    for name, allowed in SOLVER_CHOICES.items():
        path, value = f"{SOLVER}.{name}", getattr(solver_cfg, name)
        if not is_solver_choice(path, value):
            raise UserError(
                f"{path}: {shorten(value)} given; allowed: {', '.join(allowed)}{suggest_name(str(value), allowed)}"
            )


def is_solver_choice(path: str, value: object) -> bool:
    """Return whether the field at ``path`` is in `SOLVER_CHOICES` and may have the ``value``."""
    group, _, name = path.rpartition(".")
    return group == SOLVER and str(value).lower() in SOLVER_CHOICES.get(name, ())


def check_delays(env_cfg: EnvCfg) -> None:
    """Raise UserError with the term if the delay of an observation in ``env_cfg`` is impossible."""
    for group_name, group in get_fields(getattr(env_cfg, "observations", None)).items():
        for name, term in get_fields(group).items():
            fields = get_fields(term)
            if "delay_min_lag" not in fields:
                continue
            low, high, hold = (fields[f"delay_{key}"] for key in ("min_lag", "max_lag", "hold_prob"))
            if not (0 <= low <= high and 0.0 <= hold <= 1.0):
                raise UserError(
                    f"env.observations.{group_name}.{name}: delay_min_lag {low}, delay_max_lag {high} and delay_hold_prob {hold} given;"
                    " allowed: 0 <= delay_min_lag <= delay_max_lag, and delay_hold_prob from 0 to 1"
                )


def check_values(path: str, value: object, current: object) -> None:
    """Raise UserError with the field and the allowed values for numbers in ``value`` that are non-finite or out of range.

    If the ``current`` value at ``path`` is infinite, the new one may be too.
    """
    if isinstance(value, Mapping):
        current_values = current if isinstance(current, Mapping) else {}
        for key, number in value.items():
            check_values(f"{path}.{key}", number, current_values.get(key))
        return
    if not isinstance(value, list | tuple):
        value = (value,)
    elif current and _is_vector(current) and not (len(value) == len(current) and _is_vector(tuple(value))):
        raise UserError(f"{path}: expected {len(current)} numbers such as {current}, got {shorten(value)}")
    for number in value:
        if is_number(number):
            _check_field_number(path, number, current)


def _is_vector(value: object) -> TypeGuard[tuple[float, ...]]:
    return isinstance(value, tuple) and all(isinstance(number, int | float) for number in value)


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
    if COUNT_PATTERN.search(name):
        check_number(path, number, int, low=1, high=100_000)
    elif (
        is_number(current)
        and current > 0
        and path.startswith("env.sim.")
        and path.removeprefix("env.") not in BOUNDS
    ):
        # a solver setting that is positive now must not become negative, and most counts must stay at least 1
        is_from_one = isinstance(current, int) and name not in ZERO_COUNTS
        check_number(path, number, type(number), low=1 if is_from_one else 0)
    elif NONNEGATIVE_PATTERN.search(path):
        check_number(path, number, type(number), low=0)


def get_fields(node: object) -> dict[str, Any]:
    """Return the fields of ``node``, a config or a dict; empty for a plain value."""
    if isinstance(node, Mapping):
        return dict(node)
    return dict(vars(node)) if hasattr(node, "__dataclass_fields__") else {}


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether ``value`` is a number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_null_allowed(path: str, current: object) -> None:
    """Raise UserError if the field at ``path`` with a ``current`` value must not be null.

    Only terms of managers, their groups and scene entities may be null.
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
    """Raise UserError with entity and term if a manager's term in ``env_cfg`` refers to one of the ``absent`` scene entities."""
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
    """Raise UserError if ``function``, the agent's ``symmetry_cfg.data_augmentation_func``, belongs to another task of Isaac Lab."""

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
    """Return the groups of a task's ``observations``, and the groups that each model uses, by role.

    Roles that are missing in the agent's ``obs_groups`` get rsl_rl's default.
    """
    known = [name for name, group in vars(observations).items() if group is not None]
    default = {role: [role if role in known else "policy"] for role in ("actor", "critic")}
    return known, {**default, **obs_groups}


def check_obs_groups(env_cfg: EnvCfg, obs_groups: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError with role and available groups for an unknown observation group in the agent's ``obs_groups``.

    A task without an observation manager is not checked: its groups are unknown before the first step.
    """
    observations = getattr(env_cfg, "observations", None)
    if observations is None:
        return
    known, used = get_used_groups(observations, obs_groups)
    require_obs_groups(used, known)
