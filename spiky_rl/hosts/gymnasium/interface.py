"""Meaning of the values that a task of Gymnasium observes and takes, with units, for the header of an exported policy.

Only classes of Gymnasium itself are described, whose source is known: MuJoCo robots from their model, and classic control from a
table. A wrapper may change values without changing their space, so a task in any wrapper not listed here is not described.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, TimeLimit

TRANSPARENT_WRAPPERS = (OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, TimeLimit)
"""Wrappers that pass observations and actions on as they are. Subclasses may change them."""
MUJOCO_PACKAGE = "gymnasium.envs.mujoco."
"""Beginning of the modules of Gymnasium's MuJoCo robots, whose actions are the controls of the model's actuators."""
MAX_CHOICES = 64
"""Largest number of choices of discrete actions that are listed."""
SIMPLEST_KIND = 0
"""MuJoCo's number of an actuator's simplest kinds: on a joint (mjTRN_JOINT), with a fixed gain (mjGAIN_FIXED), no bias (mjBIAS_NONE) and
no dynamics (mjDYN_NONE)."""
type JointValue = tuple[str, str, str]
"""Quantity, unit, and name of the joint with the axis, of a value in MuJoCo's data."""
WORLD, OWN = "in the world's frame", "in the frame of its own body"
QUATERNION = tuple(("quaternion", "", axis) for axis in "WXYZ")
JOINT_VALUES: tuple[tuple[Sequence[JointValue], Sequence[JointValue], Sequence[JointValue]], ...] = (
    (
        (*(("position", f"m {WORLD}", axis) for axis in "XYZ"), *QUATERNION),
        (
            *(("velocity", f"m/s {WORLD}", axis) for axis in "XYZ"),
            *(("angular velocity", f"rad/s {OWN}", axis) for axis in "XYZ"),
        ),
        (
            *(("force", f"N {WORLD}", axis) for axis in "XYZ"),
            *(("torque", f"N m {OWN}", axis) for axis in "XYZ"),
        ),
    ),
    (
        QUATERNION,
        tuple(("angular velocity", f"rad/s {OWN}", axis) for axis in "XYZ"),
        tuple(("torque", f"N m {OWN}", axis) for axis in "XYZ"),
    ),
    ((("position", "m", ""),), (("velocity", "m/s", ""),), (("force", "N", ""),)),
    ((("angle", "rad", ""),), (("angular velocity", "rad/s", ""),), (("torque", "N m", ""),)),
)
"""Positions, velocities and efforts of a joint in MuJoCo's data, by MuJoCo's number of its type: free, ball, slide, hinge."""
CENTRE = "the centre of mass of the body's kinematic tree, in the world's axes"
BODY_TERMS = {
    "cinert": f"inertia XX YY ZZ XY XZ YZ in kg m^2, mass times offset X Y Z in kg m and mass in kg, about {CENTRE}",
    "cvel": f"angular velocity X Y Z in rad/s, then linear velocity X Y Z in m/s at {CENTRE}",
    "cfrc_ext": f"external torque X Y Z in N m about {CENTRE}, then external force X Y Z in N",
}
"""Meaning of the values of a body in MuJoCo's data, by name of the array; the world, body 0, is not observed."""
ROBOT_TERMS = {
    "inverted_double_pendulum": (
        (1, "qpos, position of slider, m"),
        (2, "sines of the angles of hinge, hinge2"),
        (2, "cosines of the angles of hinge, hinge2"),
        (1, "qvel, velocity of slider, m/s, clipped to -10 to 10"),
        (2, "qvel, angular velocity of hinge, hinge2, rad/s, clipped to -10 to 10"),
        (1, "qfrc_constraint, force of the constraints on slider, N, clipped to -10 to 10"),
    ),
    "reacher": (
        (2, "cosines of the angles of joint0, joint1"),
        (2, "sines of the angles of joint0, joint1"),
        (2, "qpos, position of target_x, target_y, m"),
        (2, "qvel, angular velocity of joint0, joint1, rad/s"),
        (2, f"position X Y of fingertip less that of target, m {WORLD}"),
    ),
    "pusher": (
        (7, "qpos, angle of the seven joints of the arm, in the order of the actions, rad"),
        (7, "qvel, angular velocity of these joints, rad/s"),
        *((3, f"position X Y Z of {body}, m {WORLD}") for body in ("tips_arm", "object", "goal")),
    ),
}
"""Terms of the version 5 robots whose classes compute their observations without a structure, by module."""
STATES_OF_VERSION_4 = ("ant", "half_cheetah", "hopper", "inverted_pendulum", "swimmer", "walker2d")
"""Modules of the version 4 robots that observe the last positions and all velocities, unless they observe contacts."""
CLASSIC_CONTROL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cartpole:CartPoleEnv": (
        (
            "position of the cart, m, positive to the right",
            "velocity of the cart, m/s, positive to the right",
            "angle of the pole, rad, 0 if it is upright, positive to the right",
            "angular velocity of the pole, rad/s, positive to the right",
        ),
        ("push the cart to the left with 10 N", "push the cart to the right with 10 N"),
    ),
    "pendulum:PendulumEnv": (
        (
            "cosine of the angle, which is 0 if the pendulum is upright",
            "sine of the angle, positive counter-clockwise",
            "angular velocity, rad/s, positive counter-clockwise",
        ),
        ("torque, N m, positive counter-clockwise",),
    ),
    "acrobot:AcrobotEnv": (
        (
            "cosine of the first joint's angle, which is 0 if the first link points downwards",
            "sine of the first joint's angle",
            "cosine of the second joint's angle, which is relative to the first link and 0 if both links are in line",
            "sine of the second joint's angle",
            "angular velocity of the first joint, rad/s",
            "angular velocity of the second joint, rad/s",
        ),
        tuple(f"torque of {torque} N m on the second joint" for torque in (-1, 0, 1)),
    ),
    "mountain_car:MountainCarEnv": (
        ("position of the car", "change of the position in a control step"),
        ("accelerate to the left", "do not accelerate", "accelerate to the right"),
    ),
    "continuous_mountain_car:Continuous_MountainCarEnv": (
        ("position of the car", "change of the position in a control step"),
        (
            "force on the car, positive to the right; times 0.0015 it is the change of the velocity in a control step",
        ),
    ),
}
"""Observed values, and actions or choices, by class of Gymnasium's package of classic control."""


@dataclass(frozen=True)
class TaskInterface:
    """Meaning of the observed values and the actions of a task."""

    observations: tuple[tuple[int, str], ...] = ()
    """Number of values and meaning of each term of an observation, in order; empty if they are not known."""
    note: str = ""
    """Sentence on the names in ``observations`` and ``actions``; empty if it needs none."""
    actions: tuple[str, ...] = ()
    """Meaning by action, or by choice of all components if actions are discrete; empty if it is not known."""
    joints: tuple[str, ...] = ()
    """Name of the joint by action; empty if actions are not of joints."""


def describe_interface(env: gymnasium.Env) -> TaskInterface:
    """Return the meaning of the values of ``env``; empty if a wrapper may change them, or the task's class is not known."""
    task: Any = env.unwrapped
    kind = f"{type(task).__module__}:{type(task).__name__}"
    if not _has_spaces_of_its_task(env):
        return TaskInterface()
    classic = CLASSIC_CONTROL.get(kind.removeprefix("gymnasium.envs.classic_control."))
    if classic is not None:
        observations, actions = classic
        return TaskInterface(tuple((1, text) for text in observations), actions=actions)
    if kind.startswith(MUJOCO_PACKAGE) and hasattr(task, "model"):
        return _describe_robot(task)
    return TaskInterface()


def list_choice_texts(
    choices: Sequence[int], first: Sequence[int], meanings: Sequence[str]
) -> tuple[str, ...]:
    """Return a text by choice of all components of a discrete action; none if there are more than `MAX_CHOICES`.

    Args:
        choices: Number of choices by component.
        first: The task's number of the first choice, by component.
        meanings: Meaning by choice; empty if it is not known.
    """
    if sum(choices) > MAX_CHOICES:
        return ()
    texts = [
        f"{start + i}{f' of component {component}' if len(choices) > 1 else ''}"
        for component, (count, start) in enumerate(zip(choices, first, strict=True))
        for i in range(count)
    ]
    if len(meanings) != len(texts):
        return tuple(texts)
    return tuple(f"{text}, {meaning}" for text, meaning in zip(texts, meanings, strict=True))


def _has_spaces_of_its_task(env: gymnasium.Env) -> bool:
    """Return whether ``env`` observes and takes the same values as its task without wrappers."""
    task = env.unwrapped
    if (env.observation_space, env.action_space) != (task.observation_space, task.action_space):
        return False
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in TRANSPARENT_WRAPPERS:
            return False
        env = env.env
    return True


def _describe_robot(task: Any) -> TaskInterface:
    """Return the meaning of the values of one of Gymnasium's MuJoCo robots."""
    model = task.model
    bounds = model.actuator_ctrlrange.astype(np.float32).T
    if not np.array_equal(bounds, (task.action_space.low, task.action_space.high)):
        return TaskInterface()  # its actions are not the controls
    actions, joints = zip(*(_describe_actuator(model, i) for i in range(model.nu)), strict=True)
    note = f"Joints and bodies are those of {Path(task.fullpath).name}"
    terms, skipped = _describe_state(task)
    if sum(size for size, _ in terms) != task.observation_space.shape[0]:
        terms, skipped = [], []
    if skipped:
        note += f"; not observed: {'; '.join(text for _, text in skipped)}"
    return TaskInterface(tuple(terms), f"{note}.", actions, joints if all(joints) else ())


def _describe_actuator(model: Any, index: int) -> tuple[str, str]:
    """Return the meaning of an actuator's control, and the name of the joint that it moves, empty if it moves something else."""
    name, gear = model.actuator(index).name, model.actuator_gear[index, 0]
    if model.actuator_trntype[index] != SIMPLEST_KIND:
        return f"control of actuator {name or index}", ""
    joint = int(model.actuator_trnid[index, 0])
    joint_name = _get_name(model.joint(joint).name, "joint", joint)
    text = f"actuator {name} of joint {joint_name}" if name not in ("", joint_name) else f"joint {joint_name}"
    efforts = JOINT_VALUES[model.jnt_type[joint]][2]
    is_motor = (
        model.actuator_gaintype[index] == SIMPLEST_KIND
        and model.actuator_gainprm[index, 0] == 1.0
        and model.actuator_biastype[index] == SIMPLEST_KIND
        and model.actuator_dyntype[index] == SIMPLEST_KIND
        and not model.actuator_forcelimited[index]
        and not model.jnt_actfrclimited[joint]
    )
    if len(efforts) > 1 or not is_motor:
        return f"control of {text}, gear {gear:g}", joint_name
    [(quantity, unit, _)] = efforts
    return f"{text}, {quantity} = {gear:g} (gear) x action, {unit}", joint_name


def _describe_state(task: Any) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Return the terms of a robot's observation, and those of the positions that it leaves out.

    Both are empty if Gymnasium does not tell the structure of the observation, or it has an array that is not known here.
    """
    model, terms = task.model, []
    module = type(task).__module__.removeprefix(MUJOCO_PACKAGE)
    if module.removesuffix("_v5") in ROBOT_TERMS:
        return list(ROBOT_TERMS[module.removesuffix("_v5")]), []
    structure = dict(getattr(task, "observation_structure", {}))
    left_out = model.nq + model.nv - task.observation_space.shape[0]
    if module.removesuffix("_v4") in STATES_OF_VERSION_4 and left_out >= 0:
        structure = {"skipped_qpos": left_out, "qpos": model.nq - left_out, "qvel": model.nv}
    positions, velocities, efforts = (
        _list_joint_values(model, values) for values in zip(*JOINT_VALUES, strict=True)
    )
    left_out = structure.pop("skipped_qpos", 0)
    bodies = ", ".join(_get_name(model.body(i).name, "body", i) for i in range(1, model.nbody))
    for array, size in structure.items():
        clip = _describe_clip(task, array)
        if array == "qpos":
            terms += _group_values(array, positions[left_out:])
        elif array == "qvel":
            terms += _group_values(array, velocities, clip)
        elif array == "qfrc_actuator" and size:
            terms += _group_values(array, efforts[-size:], ", exerted by the actuators")
        elif array in BODY_TERMS and size:
            each = size // (model.nbody - 1)
            terms.append((size, f"{array}, {each} values of each of {bodies}: {BODY_TERMS[array]}{clip}"))
        elif size:
            return [], []
    return terms, _group_values("qpos", positions[:left_out])


def _describe_clip(task: Any, array: str) -> str:
    """Return the limits to which Gymnasium's class of the ``task`` clips an ``array`` of MuJoCo's data, as text; empty without limits."""
    limits = {
        ("HopperEnv", "qvel"): (-10.0, 10.0),
        ("Walker2dEnv", "qvel"): (-10.0, 10.0),
        ("AntEnv", "cfrc_ext"): getattr(task, "_contact_force_range", ()),
    }.get((type(task).__name__, array))
    return f", clipped to {limits[0]:g} to {limits[1]:g}" if limits else ""


def _list_joint_values(model: Any, values_by_type: Sequence[Sequence[JointValue]]) -> list[JointValue]:
    """Return the values of all joints of a ``model`` in order; an axis in ``values_by_type`` becomes the joint's name and the axis."""
    return [
        (quantity, unit, f"{_get_name(model.joint(i).name, 'joint', i)} {axis}".strip())
        for i, joint_type in enumerate(model.jnt_type)
        for quantity, unit, axis in values_by_type[joint_type]
    ]


def _group_values(array: str, values: Iterable[JointValue], note: str = "") -> list[tuple[int, str]]:
    """Return number and meaning of consecutive ``values`` of the same quantity and unit, which ``array`` of MuJoCo's data holds."""
    terms = []
    for (quantity, unit), group in itertools.groupby(values, lambda value: value[:2]):
        names = [name for _, _, name in group]
        terms.append((len(names), f"{array}, {quantity} of {', '.join(names)}{unit and f', {unit}'}{note}"))
    return terms


def _get_name(name: str, kind: str, index: int) -> str:
    return name or f"{kind} {index}"
