"""Terms of an environment's observation, as an engineer must know them: place, meaning, unit, frame, scale, history.

Managers of Isaac Lab and mjlab name the terms and their functions. Units and frames are those of the functions' sources: Isaac Lab
declares some and mjlab none.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

LAST_ACTION_FUNCTION = "last_action"
"""Name of the function that observes the last action."""
GRAVITY = "direction of gravity, of length 1: 0, 0, -1 if {} is upright; an accelerometer at rest shows the opposite sign"
BASE_VELOCITY = (
    "m/s, X forward, Y left, Z up in the robot's frame, of {}; no sensor measures it, so estimate it"
)
MEANINGS = {
    "projected_gravity": GRAVITY.format("the robot"),
    "projected_gravity_from_sensor": GRAVITY.format("the sensor"),
    "pva_projected_gravity": GRAVITY.format("the sensor"),
    "body_projected_gravity_b": GRAVITY.format("a body"),
    "base_lin_vel": BASE_VELOCITY.format("the base"),
    "base_ang_vel": "rad/s, X forward, Y left, Z up in the robot's frame",
    "root_lin_vel_w": "m/s, X Y Z in the world's frame",
    "root_ang_vel_w": "rad/s, X Y Z in the world's frame",
    "root_pos_w": "m from the environment's origin, X Y Z",
    "root_quat_w": "quaternion X Y Z W",
    "pva_orientation": "quaternion X Y Z W",
    "body_pose_w": "position X Y Z in m, then quaternion X Y Z W",
    "body_incoming_wrench": "force X Y Z in N, then torque X Y Z in N m about the joint's anchor, that the joint to the parent exerts"
    " on the body, in the joint's frame on the body's side",
    "base_yaw_roll": "rad, yaw, then roll, each wrapped to [-pi, pi]",
    "base_angle_to_target": "rad, direction of the target less the yaw, wrapped to [-pi, pi]",
    "base_up_proj": "cosine of the tilt, 1 if the robot is upright",
    "base_heading_proj": "cosine of the angle between heading and target",
    "height_scan": "m, height of the sensor above the ground less the offset",
    "imu_ang_vel": "rad/s, X Y Z in the sensor's frame",
    "imu_lin_acc": "m/s^2, X Y Z in the sensor's frame",
    "joint_pos": "rad",
    "joint_pos_rel": "rad",
    "joint_vel": "rad/s",
    "joint_vel_rel": "rad/s",
}
"""Meaning by name of a function of Isaac Lab 3.0 or mjlab 1.6; joints are hinges."""
MEANINGS_IN_PACKAGES = {
    ("isaaclab", "base_lin_vel"): BASE_VELOCITY.format("the base's centre of mass"),
    ("mjlab", "base_lin_vel"): BASE_VELOCITY.format("the origin of the base's frame"),
    ("isaaclab", "root_lin_vel_w"): "m/s, X Y Z in the world's frame, of the base's centre of mass",
}
"""Meaning by package and name, of functions whose package decides which point of the base they observe."""
COMMANDS = {
    "UniformVelocityCommand": "m/s forward, m/s to the left, rad/s of a turn to the left",
    "UniformPoseCommand": "position X Y Z in m, then quaternion X Y Z W, in the robot's frame",
    "UniformPose2dCommand": "position X Y Z in m, then heading in rad, in the robot's frame",
    "MotionCommand": "joint positions in rad, then joint velocities in rad/s, of the motion",
}
"""Meaning by name of a command's class, or of a base class of it."""
SENSORS = {"velocimeter": "m/s, X Y Z in the sensor's frame", "gyro": "rad/s, X Y Z in the sensor's frame"}
"""Meaning by type of a sensor of MuJoCo."""
PACKAGES = ("isaaclab", "mjlab")
"""Packages of managers. Those of Isaac Lab's tasks begin with the same name."""
DEFAULTS = {"joint_pos_rel": "default_joint_pos", "joint_vel_rel": "default_joint_vel"}
"""Names of functions that observe differences from default values, and of these values in the robot's data."""
NORMALISED = "joint_pos_limit_normalized"
"""Name of the function that observes positions as shares of the joints' ranges."""


@dataclass(frozen=True)
class ContractTerm:
    """Consecutive elements of an observation or action vector that one term of the environment fills."""

    start: int
    size: int
    text: str
    """Name and, where they are known, function, meaning, history, scale, offset, clip and modifiers."""
    is_last_action: bool = False
    """Whether the term observes the last action."""
    is_plain: bool = False
    """Whether the elements are known to be the function's own values, without scale, clip, delay, modifiers and history."""
    parts: tuple[str, ...] = ()
    """Names of the observed joints or bodies in the order of their values; empty if the term observes something else."""
    has_history: bool = False
    """Whether the elements are values of several control steps."""
    note: str = ""
    """Number of values of each of `parts`, and values to which they are relative, as text; empty for one value that is relative to nothing."""


def describe_observations(env: Any, groups: Sequence[str]) -> tuple[ContractTerm, ...]:
    """Return the terms of the observation ``groups`` of ``env`` in order; none if its managers do not name them."""
    manager = getattr(env, "observation_manager", None)
    if manager is None or not set(groups) <= set(manager.active_terms):
        return ()
    terms: list[ContractTerm] = []
    start = 0
    for group in groups:
        for term in _describe_group(env, manager, group):
            terms.append(replace(term, start=start))
            start += term.size
    return tuple(terms)


def _describe_group(env: Any, manager: Any, group: str) -> list[ContractTerm]:
    """Return the terms of an observation ``group`` in order, without their places.

    If the group's history is ordered by time (``history_order`` of Isaac Lab), every control step has all terms.
    """
    names = manager.active_terms[group]
    configs = getattr(manager, "_group_obs_term_cfgs", {}).get(group, [None] * len(names))
    terms = []
    for name, shape, config in zip(names, manager.group_obs_term_dim[group], configs, strict=True):
        size, function = math.prod(shape), getattr(config, "func", None)
        function_name = getattr(function, "__name__", "")
        # a delay applies to the scaled values, before the history
        settings = format_settings(
            config, "scale", "clip", "delay_min_lag", "delay_max_lag", "history_length"
        )
        # numbers and names, such as ``offset 0.5``; a value that is switched off is left out
        details = [
            f"{argument} {value}"
            for argument, value in _get_arguments(config).items()
            if isinstance(value, int | float | str | tuple) and value is not False
        ]
        if function_name not in ("", name):
            details.insert(0, function_name)
        source = f" ({', '.join(details)})" if details else ""
        meaning = _find_meaning(env, config)
        modifiers = [modifier.func for modifier in getattr(config, "modifiers", None) or ()]
        modified = ", ".join(getattr(each, "__name__", type(each).__name__) for each in modifiers)
        text = f"{group}.{name}{source}{f', {meaning}' if meaning else ''}{settings}"
        text += f"; modified first by {modified}" if modified else ""
        is_last_action, is_plain = function_name == LAST_ACTION_FUNCTION, not settings and not modified
        has_history = (getattr(config, "history_length", 0) or 0) > 1
        parts, note = _list_observed_parts(env, config, size)
        terms.append(ContractTerm(0, size, text, is_last_action, is_plain, parts, has_history, note))
    if not getattr(manager, "_group_obs_time_major", {}).get(group, False):
        return terms
    length = configs[0].history_length
    ages = ["this control step", *(f"{age} control step{'s' * (age > 1)} before" for age in range(1, length))]
    return [
        replace(term, size=term.size // length, text=f"{term.text}; of {age}")
        for age in reversed(ages)
        for term in terms
    ]


def _get_arguments(config: Any) -> dict[str, Any]:
    """Return the arguments of a term's function by name, defaults included; empty if the function is not known."""
    function = getattr(config, "func", None)
    if not callable(function):
        return {}
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    return {**defaults, **getattr(config, "params", {})}


def _find_meaning(env: Any, config: Any) -> str:
    """Return unit, frame and order of a term's values, as far as they are known."""
    function, params = getattr(config, "func", None), getattr(config, "params", {})
    if command := params.get("command_name"):
        term = env.command_manager.get_term(command)
        kinds = [kind.__name__ for kind in type(term).__mro__]
        meaning = next((COMMANDS[kind] for kind in kinds if kind in COMMANDS), "")
        return meaning + _describe_ranges(term) if meaning else ""
    name = getattr(function, "__name__", "")
    if name == "builtin_sensor":
        return SENSORS.get(getattr(env.scene[params["sensor_name"]].cfg, "sensor_type", ""), "")
    module = str(getattr(function, "__module__", ""))
    if name in MEANINGS and (package := next(filter(module.startswith, PACKAGES), None)):
        return MEANINGS_IN_PACKAGES.get((package, name), MEANINGS[name])
    # Isaac Lab's own functions have a descriptor
    declared = getattr(getattr(function, "_descriptor", None), "extras", {})
    parts = (declared.get("units"), " ".join(declared.get("axes", ())))
    return ", ".join(text for text in parts if text and text != "unit")  # "unit": values without one


def _describe_ranges(command: Any) -> str:
    """Return the ranges of a commanded velocity in training, as text; empty for another command."""
    cfg = getattr(command, "cfg", None)
    names = ("lin_vel_x", "lin_vel_y", "ang_vel_z")
    ranges = getattr(cfg, "ranges", None)
    if not all(hasattr(ranges, name) for name in names):
        return ""
    limits = (getattr(ranges, name) for name in names)
    text = ", ".join(f"{low:g} to {high:g}" for low, high in limits)
    return f"; commanded {text}{', and 0 to stand' if getattr(cfg, 'rel_standing_envs', 0) else ''}"


def _list_observed_parts(env: Any, config: Any, size: int) -> tuple[tuple[str, ...], str]:
    """Return the joints or bodies that a term of ``size`` values observes, and a note on their values.

    Both are empty if the term observes something else. In Isaac Lab and mjlab the name of such a function begins with ``joint`` or ``body``, and
    an argument selects the joints or bodies.
    """
    name = getattr(getattr(config, "func", None), "__name__", "")
    kind = name.partition("_")[0]
    if kind not in ("joint", "body"):
        return (), ""
    for selected in _get_arguments(config).values():
        indices = getattr(selected, f"{kind}_ids", None)
        if indices is None:
            continue
        robot = env.scene[selected.name]
        names = getattr(robot, f"{kind}_names")
        chosen = range(len(names))[indices] if isinstance(indices, slice) else [int(i) for i in indices]
        if not chosen or size % len(chosen):
            return (), ""
        count = size // len(chosen) // max(1, getattr(config, "history_length", 0) or 0)
        notes = [f"{count} values each"] if count > 1 else []
        notes += _describe_reference(robot, name, list(chosen))
        return tuple(names[i] for i in chosen), ", ".join(notes)
    return (), ""


def _describe_reference(robot: Any, function: str, joints: list[int]) -> list[str]:
    """Return the values of a robot's ``joints`` to which a ``function`` is relative, as text; nothing if there are none, or zeros."""
    if function in DEFAULTS:
        values = _read_first_world(robot, DEFAULTS[function])[joints]
        return [f"minus their default values {_join(to_plain(values))}"] if values.any() else []
    if function == NORMALISED:
        limits = _read_first_world(robot, "soft_joint_pos_limits")[joints]
        low, high = (_join(to_plain(bound)) for bound in limits.T)
        return [f"from -1 at {low} to 1 at {high} rad"]
    return []


def _read_first_world(robot: Any, name: str) -> Tensor:
    """Return a value of a robot's data in the first environment."""
    values = getattr(robot.data, name)
    first: Tensor = getattr(values, "torch", values)[0]  # Isaac Lab wraps an array of Warp
    return first


def _join(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)


def format_settings(config: Any, *names: str) -> str:
    """Return the values of ``config`` that are set, such as ``: scale 0.5, clip (-1, 1)``."""
    values = {name: to_plain(getattr(config, name, None)) for name in names}
    # 0 equals False too: a setting that is switched off is left out
    text = ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, 0, {}))
    return f": {text}" if text else ""


def to_plain(value: Any) -> Any:
    """Return a tensor as a number or a list of numbers with the digits of single precision, and any other ``value`` as it is."""
    if not isinstance(value, Tensor):
        return value
    numbers = [float(str(x)) for x in value.flatten().float().cpu().numpy()]  # 0.2, not 0.20000000298
    return numbers[0] if len(numbers) == 1 else numbers
