"""Numbers that no simulation can be configured with, refused before one starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spiky_rl.config.options import LARGEST_INTEGER, UserError, check_number, nearest, short
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

BOUNDS: dict[str, dict[str, Any]] = {
    "sim.dt": {"kind": float, "above": 0.0, "high": 1.0},
    "sim.render_interval": {"kind": int, "low": 1, "high": 100_000},
    "scene.env_spacing": {"kind": float, "low": 0.0, "high": 1e6},
    "decimation": {"kind": int, "low": 1, "high": 100_000},
    "episode_length_s": {"kind": float, "above": 0.0, "high": 1e9},
}
"""Fields of every task's configuration, and what they may be."""


def check_times(env_cfg: EnvCfg) -> None:
    """Refuse times and distances of ``env_cfg`` that no simulation has. Raises UserError that names the field and what it may be."""
    for path, bounds in BOUNDS.items():
        value = functools.reduce(lambda node, name: getattr(node, name, None), path.split("."), env_cfg)
        if isinstance(value, int | float):
            check_number(f"env.{path}", value, **bounds)


def check_numbers(path: str, value: object, current: object) -> None:
    """Refuse numbers that are none or have no place in 64 bits; infinity may stay where a field has it already.

    Args:
        path: Path of the field.
        value: That it is to have.
        current: That it has.

    Raises:
        UserError: It names the field and what is allowed.
    """
    if isinstance(current, tuple) and all(isinstance(number, int | float) for number in current):
        if isinstance(value, list | tuple) and len(value) != len(current):
            raise UserError(f"{path}: expected {len(current)} numbers such as {current}, got {short(value)}")
    for number in value if isinstance(value, list | tuple) else (value,):
        endless = (
            isinstance(number, float)
            and math.isinf(number)
            and isinstance(current, float)
            and math.isinf(current)
        )
        if isinstance(number, float) and not math.isfinite(number) and not endless:
            raise UserError(f"{path}: expected a finite number, got {number}")
        if isinstance(number, int) and abs(number) > LARGEST_INTEGER:
            raise UserError(f"{path}: {short(number)} is out of range; it must be at most {LARGEST_INTEGER}")


def seen_groups(
    observations: object, observed: Mapping[str, Sequence[str]]
) -> tuple[list[str], dict[str, Sequence[str]]]:
    """The groups that a task observes, and by role those that a model sees.

    Args:
        observations: The task's configuration of them.
        observed: ``obs_groups`` of the agent; what it does not say of actor and critic, rsl_rl chooses.
    """
    known = [name for name, group in vars(observations).items() if group is not None]
    default = {role: [role if role in known else "policy"] for role in ("actor", "critic")}
    return known, {**default, **observed}


def check_groups(env_cfg: EnvCfg, observed: Mapping[str, Sequence[str]]) -> None:
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
    known, seen = seen_groups(observations, observed)
    for role, groups in seen.items():
        for group in (group for group in groups if group not in known):
            raise UserError(
                f"agent.obs_groups.{role}: the task has no observation group {group!r}; it has {', '.join(known)}"
                f"{nearest(group, known)}"
            )
