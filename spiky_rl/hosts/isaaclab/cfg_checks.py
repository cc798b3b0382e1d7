"""Numbers that no simulation can be configured with, refused before one starts."""

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
    suggest_name,
)
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

BOUNDS: dict[str, dict[str, Any]] = {
    "sim.dt": {"kind": float, "low": 1e-6, "high": 1.0},
    "sim.render_interval": {"kind": int, "low": 1, "high": 100_000},
    "scene.env_spacing": {"kind": float, "low": 0.0, "high": 1e6},
    "decimation": {"kind": int, "low": 1, "high": 100_000},
    "episode_length_s": {"kind": float, "above": 0.0, "high": 1e9},
}
"""Fields of every task's configuration, and what they may be."""
LEAST_FLOAT = 1.2e-38
"""Below it a float of 32 bits loses its digits, and is zero in the end."""
COUNT = re.compile(r"(^|_)(iterations|substeps)$")
"""Names of what a solver does that many times."""
NOT_NEGATIVE = re.compile(
    r"\.(mass|density|stiffness|damping|armature|((static|dynamic|viscous)_)?friction|(effort|velocity)_limit(_sim)?)(\.|$)"
)
"""Paths of quantities that are zero or positive, whatever they are of."""
MANAGERS = ("observations", "actions", "rewards", "terminations", "events", "commands", "curriculum")
"""Groups of terms that Isaac Lab leaves out where they are null; the observations' terms are in groups of their own."""
TASKS, FAMILY = "isaaclab_tasks", 3
"""The package of Isaac Lab's tasks, and how many parts of a module's name say which of them it belongs to."""


def check_durations(env_cfg: EnvCfg) -> None:
    """Refuse times and distances of ``env_cfg`` that no simulation has. Raises UserError that names the field and what it may be."""
    for path, bounds in BOUNDS.items():
        value = functools.reduce(lambda node, name: getattr(node, name, None), path.split("."), env_cfg)
        if isinstance(value, int | float):
            check_number(f"env.{path}", value, **bounds)


def check_numbers(path: str, value: object, current: object) -> None:
    """Refuse numbers that are none, that no simulation holds, or that the quantity they are of cannot have.

    Args:
        path: Path of the field.
        value: That it is to have.
        current: That it has; infinity may stay where it has it already.

    Raises:
        UserError: It names the field and what is allowed.
    """
    if isinstance(current, tuple) and all(isinstance(number, int | float) for number in current):
        if isinstance(value, list | tuple) and len(value) != len(current):
            raise UserError(
                f"{path}: expected {len(current)} numbers such as {current}, got {shorten(value)}"
            )
    if isinstance(value, Mapping):
        below = current if isinstance(current, Mapping) else {}
        for key, number in value.items():
            check_numbers(f"{path}.{key}", number, below.get(key))
        return
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_number(path, number, current)


def _check_number(path: str, number: float, current: object) -> None:
    if isinstance(number, int):
        if abs(number) > LARGEST_INTEGER:
            raise UserError(
                f"{path}: {shorten(number)} is out of range; it must be at most {LARGEST_INTEGER}"
            )
    elif not math.isfinite(number):
        if not (math.isinf(number) and isinstance(current, float) and math.isinf(current)):
            raise UserError(f"{path}: expected a finite number, got {number}")
    elif number and not LEAST_FLOAT <= abs(number) <= LARGEST_FLOAT:
        raise UserError(
            f"{path}: {number} is out of range; what a float of 32 bits holds is 0 and from {LEAST_FLOAT} to {LARGEST_FLOAT}"
        )
    name = path.rpartition(".")[2]
    if COUNT.search(name):
        check_number(path, number, int, low=1, high=100_000)
    elif is_positive(current) and path.startswith("env.sim.") and path.removeprefix("env.") not in BOUNDS:
        check_number(path, number, type(number), low=1 if isinstance(current, int) else 0.0)
    elif NOT_NEGATIVE.search(path):
        check_number(path, number, type(number), low=0)


def is_positive(value: object) -> bool:
    """Whether ``value`` is a number above zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def check_absent(path: str, current: object) -> None:
    """Refuse to switch off what a simulation cannot be without: all but terms of managers, their groups and things in the scene.

    Args:
        path: Path of the field that is to be null.
        current: The part of the configuration that it has.

    Raises:
        UserError: It names the field and what may be null.
    """
    _, owner, *names = path.split(".")
    deep = 2 if owner == MANAGERS[0] else 1
    if (owner == "scene" and len(names) == 1) or (owner in MANAGERS and len(names) <= deep):
        return
    raise UserError(
        f"{path}: null given; allowed: a {type(current).__name__}, one of whose fields may be set; null may be terms of"
        f" {', '.join(MANAGERS)} and things in the scene"
    )


def check_scene(env_cfg: EnvCfg, absent: Collection[str]) -> None:
    """Refuse a scene without a thing that a term of its managers is about.

    Args:
        env_cfg: The task's configuration.
        absent: Names of things in the scene that were switched off.

    Raises:
        UserError: It names the thing and the term.
    """
    for manager in MANAGERS if absent else ():
        for path, name in _named_things(f"env.{manager}", getattr(env_cfg, manager, None)):
            if name in absent:
                raise UserError(
                    f"env.scene.{name}: null given, and {path} is about it; switch that off too, or keep it"
                )


def _named_things(path: str, node: object) -> Iterator[tuple[str, str]]:
    """Paths of terms below ``node``, and names of the things in the scene that they are about."""
    parts = vars(node) if hasattr(node, "__dataclass_fields__") else node if isinstance(node, Mapping) else {}
    function = parts.get("func")
    if callable(function):
        given = parts.get("params") or {}
        defaults = inspect.signature(function).parameters.values()
        parts = {**{p.name: p.default for p in defaults if p.name not in given}, **parts}
    for key, part in parts.items():
        if key == "asset_name" and isinstance(part, str):
            yield path, part
        elif type(part).__name__ == "SceneEntityCfg":
            yield path, part.name  # type: ignore[attr-defined]
        else:
            yield from _named_things(path if key == "params" else f"{path}.{key}", part)


def check_symmetry(env_cfg: EnvCfg, function: str | None) -> None:
    """Refuse a function that mirrors the observations of another task of Isaac Lab's.

    Args:
        env_cfg: The task's configuration.
        function: ``symmetry_cfg.data_augmentation_func`` of the agent; None: it has none.

    Raises:
        UserError: It names the function and the package that it may be of.
    """
    own = [".".join(cls.__module__.split(".")[:FAMILY]) for cls in type(env_cfg).__mro__]
    family = ".".join((function or "").split(":")[0].split(".")[:FAMILY])
    if family.startswith(f"{TASKS}.") and family not in own:
        allowed = next((name for name in own if name.startswith(f"{TASKS}.")), "a module of the task's own")
        raise UserError(
            f"agent.algorithm.symmetry_cfg.data_augmentation_func: {shorten(function)} is for other tasks; allowed: a function of"
            f" {allowed}, or one of your own"
        )


def get_used_groups(
    observations: object, obs_groups: Mapping[str, Sequence[str]]
) -> tuple[list[str], dict[str, Sequence[str]]]:
    """The groups that a task observes, and by role those that a model sees.

    Args:
        observations: The task's configuration of them.
        observed: ``obs_groups`` of the agent; what it does not say of actor and critic, rsl_rl chooses.
    """
    known = [name for name, group in vars(observations).items() if group is not None]
    default = {role: [role if role in known else "policy"] for role in ("actor", "critic")}
    return known, {**default, **obs_groups}


def check_obs_groups(env_cfg: EnvCfg, obs_groups: Mapping[str, Sequence[str]]) -> None:
    """Refuse a group of observations that the task does not have.

    A task without an observation manager says what it observes in its first step only.

    Args:
        env_cfg: The task's configuration.
        observed: ``obs_groups`` of the agent.

    Raises:
        UserError: It names the role and the groups that there are.
    """
    observations = getattr(env_cfg, "observations", None)
    if observations is None:
        return
    known, seen = get_used_groups(observations, obs_groups)
    for role, groups in seen.items():
        for group in (group for group in groups if group not in known):
            raise UserError(
                f"agent.obs_groups.{role}: the task has no observation group {group!r}; it has {', '.join(known)}"
                f"{suggest_name(group, known)}"
            )
