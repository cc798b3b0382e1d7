"""Commands to a robot: the values that the environment's action terms compute from a policy's actions.

A joint term of Isaac Lab and mjlab multiplies an action by a scale, adds an offset and clips the sum. A term of another class may
compute anything, so the commands of its environment are not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from spiky_rl.deploy._observations import PACKAGES, format_settings, to_plain
from spiky_rl.learners.common.action_bounds import ActionMap

COMMAND_BY_TERM = {
    "JointPositionAction": ("target position", "rad"),
    "JointVelocityAction": ("target velocity", "rad/s"),
    "JointEffortAction": ("effort", "N m"),
    "RelativeJointPositionAction": ("target position less the one measured in each {}", "rad"),
}
"""Quantity and unit of a revolute joint's command, by name of the action term's class."""
SLIDING_UNITS = {"rad": "m", "rad/s": "m/s", "N m": "N"}
"""Unit of a sliding joint, by that of a revolute one."""
XML_CONTROL = "control of the motor in the robot's XML file, before its gear and within its ctrlrange"
"""Quantity of an effort that mjlab gives to a motor of the robot's file."""
MOTOR_UNITS = {
    "stiffness": "N m/rad",
    "damping": "N m s/rad",
    "actuator_effort_limit": "N m",
    "joint_effort_limit": "N m",
    "effort_limit": "N m",
    "effort_limit_sim": "N m",
    "saturation_effort": "N m",
    "actuator_velocity_limit": "rad/s",
    "joint_velocity_limit": "rad/s",
    "velocity_limit": "rad/s",
    "velocity_limit_sim": "rad/s",
    "min_delay": "physics steps",
    "max_delay": "physics steps",
    "delay_min_lag": "physics steps",
    "delay_max_lag": "physics steps",
}
"""Unit by name of a value in a motor's configuration in Isaac Lab 3.0 and mjlab 1.6, of a revolute joint."""
TERM_SETTINGS = (
    "scale", "offset", "clip", "use_default_offset",
    "open_command_expr", "close_command_expr", "threshold", "positive_threshold",
)  # fmt: skip
"""Settings of an action term whose commands are not known; those of a gripper have the commands of both its states."""


class CommandMap(ActionMap):
    """Mapping of actions [..., A] to commands; the environment's observation of the last action holds the limited action."""

    actions_text = (
        "Actions are commands to the robot: the mean of the policy, with scale, offset and clip of the task."
    )
    """Sentence on the actions for the header of an exported C file."""
    quantities: tuple[str, ...]
    """Quantity by action."""
    units: tuple[str, ...]
    """Unit by action; of a revolute joint where the environment does not tell which joints slide."""


def find_command_map(env: Any) -> CommandMap | None:
    """Return the mapping of the action terms of ``env``'s first environment.

    None if ``env`` has no action terms, or one that does not compute its commands as the terms in `COMMAND_BY_TERM` do.
    """
    terms = _list_terms(env)
    commands = [_find_command(term) for term in terms]
    if not terms or None in commands:
        return None
    scale, offset, low, high = (torch.cat(values) for values in zip(*map(_read_term, terms), strict=True))
    action_limit = getattr(env, "clip_actions", None)
    limit = torch.full_like(scale, torch.inf if action_limit is None else action_limit)
    command_map = CommandMap(limit, scale, offset, low, high)
    sliding = getattr(env, "sliding_joints", None) or ()
    by_action = []
    for (quantity, unit), term in zip(commands, terms, strict=True):  # type: ignore[misc]
        joints = get_joint_names(term)
        if len(joints) != term.action_dim:  # names of other targets
            joints = [""] * term.action_dim
        by_action += [
            (quantity, SLIDING_UNITS.get(unit, unit) if joint in sliding else unit) for joint in joints
        ]
    command_map.quantities, command_map.units = zip(*by_action, strict=True)
    return command_map


def _read_term(term: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scale, offset, smallest and largest command of an action ``term``, [A] each."""
    # pylint: disable=protected-access  # the terms have no properties for them
    scale, offset = (_expand(value, term.action_dim) for value in (term._scale, term._offset))
    if term.cfg.clip is None:
        return scale, offset, torch.full_like(scale, -torch.inf), torch.full_like(scale, torch.inf)
    low, high = term._clip[0].cpu().unbind(-1)
    return scale, offset, low, high


def read_commands(env: Any) -> Tensor:
    """Return the commands [1, A] that the action terms of ``env`` computed for the first environment in its latest step."""
    # pylint: disable-next=protected-access  # mjlab has no property for it
    return torch.cat([term._processed_actions[:1].detach().cpu() for term in _list_terms(env)], dim=-1)


def _list_terms(env: Any) -> Sequence[Any]:
    manager = getattr(getattr(env, "unwrapped", env), "action_manager", None)
    return () if manager is None else [manager.get_term(name) for name in manager.active_terms]


def _find_command(term: Any) -> tuple[str, str] | None:
    """Return quantity and unit of the commands of a ``term``.

    None unless its class or a base class is in `COMMAND_BY_TERM`, and the class does not override how actions are processed or
    applied.
    """
    for base in type(term).__mro__:
        if base.__name__ in COMMAND_BY_TERM and base.__module__.partition(".")[0] in PACKAGES:
            methods = ("process_actions", "apply_actions")
            if any(getattr(type(term), name) is not getattr(base, name) for name in methods):
                return None
            quantity, unit = COMMAND_BY_TERM[base.__name__]
            if base.__name__ == "JointEffortAction" and _has_motors_of_its_file(term):
                return XML_CONTROL, "its control"
            env = getattr(term, "_env", None)
            is_once = getattr(env, "_physics_handles_decimation", False)
            return quantity.format("control step" if is_once else "physics step"), unit
    return None


def _has_motors_of_its_file(term: Any) -> bool:
    """Return whether the robot of a ``term`` has motors of its own XML file, which mjlab gives efforts as controls."""
    return any(type(motor).__name__ == "XmlActuator" for motor in getattr(_get_robot(term), "actuators", ()))


def _get_robot(term: Any) -> Any:
    return getattr(term, "_asset", getattr(term, "_entity", None))


def describe_term(term: Any) -> str:
    """Return the scale, the offset and the clip of an action ``term``, as text."""
    if _find_command(term) is None:
        cfg, joints = getattr(term, "cfg", None), get_joint_names(term)
        settings = {name: getattr(cfg, name, None) for name in TERM_SETTINGS}
        # as text, a command of 0 is a setting too
        by_joint = {
            name: str(_resolve_by_joint(value, joints))
            for name, value in settings.items()
            if isinstance(value, Mapping) and value
        }
        return format_settings(SimpleNamespace(**settings | by_joint), *settings)
    scale, offset, low, high = _read_term(term)
    values = {"scale": scale} | ({"offset": offset} if offset.any() else {})
    values |= {key: x for key, x in (("at least", low), ("at most", high)) if x.isfinite().any()}
    # one number if it is the same for all joints
    plain = {key: to_plain(x[:1] if (x == x[0]).all() else x) for key, x in values.items()}
    return ": " + ", ".join(f"{key} {value}" for key, value in plain.items())


def get_joint_names(term: Any) -> list[str]:
    """Return the names of the joints, or of other targets, of an action ``term``, in order; none if it has none."""
    return list(getattr(term, "_joint_names", getattr(term, "_target_names", ())))


def describe_motors(env: Any) -> list[str]:
    """Return a heading and a line on each group of motors of the robots that the action terms of ``env`` move; none if they are not known."""
    robots = {id(robot): robot for term in _list_terms(env) if (robot := _get_robot(term)) is not None}
    lines, has_values = [], False
    for robot in robots.values():
        cfg = getattr(robot, "cfg", None)
        groups = getattr(cfg, "actuators", getattr(getattr(cfg, "articulation", None), "actuators", ()))
        for group in groups.values() if isinstance(groups, Mapping) else groups:
            expressions, joints = _find_joints(group, getattr(robot, "joint_names", ()))
            values = _list_motor_values(group, joints)
            has_values |= bool(values)
            kind = type(group).__name__.removesuffix("Cfg")
            lines.append(
                f"  {', '.join(joints or expressions)} ({kind}){': ' if values else ''}{', '.join(values)}"
            )
    if not lines:
        return []
    if not has_values:
        return ["Simulated motors:", *lines]
    period = getattr(getattr(env, "unwrapped", env), "physics_dt", None)
    steps = "" if period is None else f", which act in every physics step, of {period:.9g} s"
    return [f"Simulated motors; the robot's must have these gains and limits{steps}:", *lines]


def _find_joints(group: Any, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the regular expressions of a ``group`` of motors, and the ``names`` that they match, in order."""
    given: Any = getattr(group, "joint_names_expr", getattr(group, "target_names_expr", ()))
    expressions = [given] if isinstance(given, str) else list(given)
    return expressions, [name for name in names if any(re.fullmatch(each, name) for each in expressions)]


def _list_motor_values(group: Any, joints: Sequence[str]) -> list[str]:
    """Return the values that the configuration of a ``group`` of motors sets, as texts with units, by joint where they differ."""
    texts = []
    for name, unit in MOTOR_UNITS.items():
        value = _resolve_by_joint(getattr(group, name, None), joints)
        if isinstance(value, Mapping) and value:
            numbers = [f"{number:.9g} of {pattern}" for pattern, number in value.items()]
        elif isinstance(value, int | float | list):
            numbers = [f"{number:.9g}" for number in (value if isinstance(value, list) else [value])]
        else:
            continue
        texts.append(f"{name} {', '.join(numbers)} {unit}")
    return texts


def _resolve_by_joint(value: Any, joints: Sequence[str]) -> Any:
    """Return values by regular expression of names as a list by joint, or as one value if all are equal; any other ``value`` as it is.

    As in Isaac Lab, a joint without a value has 0.
    """
    if not isinstance(value, Mapping) or not joints:
        return value
    values = [
        next((each for pattern, each in value.items() if re.fullmatch(pattern, joint)), 0.0)
        for joint in joints
    ]
    return values[0] if all(each == values[0] for each in values) else values


def _expand(value: Tensor | float, size: int) -> Tensor:
    """Return a number, or the first row of a tensor [B, A], as a tensor [A]."""
    return value[0].detach().cpu().float() if isinstance(value, Tensor) else torch.full((size,), float(value))
