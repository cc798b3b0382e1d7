"""Contract of a policy with its caller: period, observation terms, action terms, and where the policy is from.

Environments with managers, as of Isaac Lab and mjlab, name the terms; of any other environment only sizes and the period are known.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from spiky_rl.deploy._commands import CommandMap
from spiky_rl.learners.common.action_bounds import ActionMap

LAST_ACTION = "last_action"
"""Name of Isaac Lab's and mjlab's function that observes the last action."""
DEFAULTS = {"joint_pos_rel": "default_joint_pos", "joint_vel_rel": "default_joint_vel"}
"""Names of Isaac Lab's and mjlab's functions that observe differences from default values, and of these values in the robot's data."""
NORMALISED = "joint_pos_limit_normalized"
"""Name of Isaac Lab's function that observes positions as shares of the joints' ranges."""
UNITS = {"projected_gravity": "a direction of length 1"}
"""Units by name of Isaac Lab's function, where Isaac Lab declares another one: m/s^2 for a direction."""
VELOCITY_COMMAND = "UniformVelocityCommand"
"""Name of Isaac Lab's and mjlab's base class of commanded velocities."""
VELOCITY_UNITS = "m/s forward, m/s to the left, rad/s of a turn to the left"
LAST_ACTION_TEXT = "For the observation of the last action pass raw_action, which the struct holds after each step; before the first step pass zeros."
RAW_TEXT = "raw actions of the policy, without their scale, offset and clip:"
HISTORY_TEXT = "In a history the oldest values come first; when an episode begins, the first observation fills all of it."
COMMANDS_TEXT = "commands to the robot; their scale, offset and clip are applied. Units of a sliding joint are m, m/s and N:"


@dataclass(frozen=True)
class ContractTerm:
    """Consecutive elements of an observation or action vector that one term of the environment fills."""

    start: int
    size: int
    text: str
    """Name and, where they are known, unit, history, scale, offset, clip and modifiers."""
    is_last_action: bool = False
    """Whether the term observes the last action."""
    parts: tuple[str, ...] = ()
    """Names of the observed joints or bodies in the order of their values; empty if the term observes something else."""
    has_history: bool = False
    """Whether the elements are values of several control steps."""
    reference: str = ""
    """Values of `parts` to which the observation is relative, as text; empty if it is the value itself."""


@dataclass(frozen=True)
class PolicyContract:
    """Facts that a program must know to call a policy: period, observation, actions, and the checkpoint."""

    agent: str
    task: str
    checkpoint: str
    """Name of the file."""
    digest: str
    """First 16 digits of the file's SHA-256."""
    period: float | None
    """Seconds from one control step to the next; None if the environment does not tell."""
    observations: tuple[ContractTerm, ...] = ()
    """Empty if the environment does not name them."""
    actions: tuple[ContractTerm, ...] = ()
    joints: tuple[str, ...] = ()
    """Names of the joints by action; empty if they are not known."""
    history: int = 1
    """Control steps in one observation of an environment that does not name its terms."""
    image_shape: tuple[int, ...] = ()
    """(C, H, W) of observations that are images of Gymnasium; empty for others."""


def describe_contract(
    env: Any, groups: Sequence[str], agent: str, task: str, checkpoint: Path
) -> PolicyContract:
    """Return the contract of the policy in ``checkpoint``, which acts in ``env``; ``groups``: its observation groups in order."""
    base = getattr(env, "unwrapped", env)
    actions, joints = _describe_actions(getattr(base, "action_manager", None))
    return PolicyContract(
        agent,
        task,
        checkpoint.name,
        hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16],
        getattr(env, "control_period", getattr(env, "step_dt", None)),
        _describe_observations(base, groups),
        actions,
        joints,
        getattr(env, "history", 1),
        getattr(env, "image_shape", ()),
    )


def _describe_observations(env: Any, groups: Sequence[str]) -> tuple[ContractTerm, ...]:
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
        settings = _format_settings(config, "scale", "clip", "history_length")
        descriptor = getattr(function, "_descriptor", None)  # Isaac Lab's own functions have one
        declared = getattr(descriptor, "extras", {})
        declared_unit = UNITS.get(function_name, declared.get("units"))
        units = (declared_unit or _find_command_unit(env, config), " ".join(declared.get("axes", ())))
        unit = "".join(f", {text}" for text in units if text and text != "unit")  # "unit": values without one
        modifiers = [modifier.func for modifier in getattr(config, "modifiers", None) or ()]
        modified = ", ".join(getattr(each, "__name__", type(each).__name__) for each in modifiers)
        source = f" ({function_name})" if function_name not in ("", name) else ""
        text = (
            f"{group}.{name}{source}{unit}{settings}{f'; modified first by {modified}' if modified else ''}"
        )
        is_last_action = function_name == LAST_ACTION
        has_history = (getattr(config, "history_length", 0) or 0) > 1
        parts, reference = _list_observed_parts(env, config, size)
        terms.append(ContractTerm(0, size, text, is_last_action, parts, has_history, reference))
    if not getattr(manager, "_group_obs_time_major", {}).get(group, False):
        return terms
    length = configs[0].history_length
    ages = ["this control step", *(f"{age} control step{'s' * (age > 1)} before" for age in range(1, length))]
    return [
        replace(term, size=term.size // length, text=f"{term.text}; of {age}")
        for age in reversed(ages)
        for term in terms
    ]


def _find_command_unit(env: Any, config: Any) -> str:
    """Return the units of a term that observes a commanded velocity; empty for other terms."""
    command = getattr(config, "params", {}).get("command_name")
    if command is None:
        return ""
    kinds = type(env.command_manager.get_term(command)).__mro__
    return VELOCITY_UNITS if VELOCITY_COMMAND in (kind.__name__ for kind in kinds) else ""


def _list_observed_parts(env: Any, config: Any, size: int) -> tuple[tuple[str, ...], str]:
    """Return the joints or bodies that a term of ``size`` values observes, and the values to which it is relative, as text.

    Both are empty if the term observes something else. In Isaac Lab and mjlab the name of such a function begins with ``joint`` or ``body``, and
    an argument selects the joints or bodies.
    """
    function = getattr(config, "func", None)
    name = getattr(function, "__name__", "")
    kind = name.partition("_")[0]
    if function is None or kind not in ("joint", "body"):
        return (), ""
    arguments = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    for selected in {**arguments, **config.params}.values():
        indices = getattr(selected, f"{kind}_ids", None)
        if indices is None:
            continue
        robot = env.scene[selected.name]
        names = getattr(robot, f"{kind}_names")
        chosen = range(len(names))[indices] if isinstance(indices, slice) else [int(i) for i in indices]
        if not chosen or size % len(chosen):
            return (), ""
        return tuple(names[i] for i in chosen), _describe_reference(robot, name, list(chosen))
    return (), ""


def _describe_reference(robot: Any, function: str, joints: list[int]) -> str:
    """Return the values of a robot's ``joints`` to which a ``function`` is relative, as text; empty if there are none, or zeros."""
    if function in DEFAULTS:
        values = _read_first_world(robot, DEFAULTS[function])[joints]
        return f"minus their default values {_join(_to_plain(values))}" if values.any() else ""
    if function == NORMALISED:
        limits = [
            _join(_to_plain(bound)) for bound in _read_first_world(robot, "soft_joint_pos_limits")[joints].T
        ]
        return f"from -1 at {limits[0]} to 1 at {limits[1]} rad"
    return ""


def _read_first_world(robot: Any, name: str) -> Tensor:
    """Return a value of a robot's data in the first environment."""
    values = getattr(robot.data, name)
    first: Tensor = getattr(values, "torch", values)[0]  # Isaac Lab wraps an array of Warp
    return first


def _join(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)


def _describe_actions(manager: Any) -> tuple[tuple[ContractTerm, ...], tuple[str, ...]]:
    if manager is None:
        return (), ()
    terms: list[ContractTerm] = []
    joints: list[str] = []
    start = 0
    for name in manager.active_terms:
        term = manager.get_term(name)
        names = list(getattr(term, "_joint_names", getattr(term, "_target_names", ())))
        settings = _format_settings(
            getattr(term, "cfg", None), "scale", "offset", "clip", "use_default_offset"
        )
        terms.append(ContractTerm(start, term.action_dim, f"{name} ({type(term).__name__}){settings}"))
        joints += names if len(names) == term.action_dim else [""] * term.action_dim
        start += term.action_dim
    # the names are listed by action, so one unknown name leaves out all
    return tuple(terms), tuple(joints) if all(joints) else ()


def _format_settings(config: Any, *names: str) -> str:
    """Return the values of ``config`` that are set, such as ``: scale 0.5, clip (-1, 1)``."""
    values = {name: _to_plain(getattr(config, name, None)) for name in names}
    # 0 equals False too: a setting that is switched off is left out
    text = ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, 0, {}))
    return f": {text}" if text else ""


def _to_plain(value: Any) -> Any:
    """Return a tensor as a number or a list of numbers with the digits of single precision, and any other ``value`` as it is."""
    if not isinstance(value, Tensor):
        return value
    numbers = [float(str(x)) for x in value.flatten().float().cpu().numpy()]  # 0.2, not 0.20000000298
    return numbers[0] if len(numbers) == 1 else numbers


def format_contract(
    contract: PolicyContract | None, name: str, inputs: int, outputs: int, commands: ActionMap | None
) -> list[str]:
    """Return the sentences of a header, one paragraph each.

    Args:
        contract: The contract, if it is known.
        name: Name of the policy.
        inputs: Number of observations.
        outputs: Number of actions.
        commands: Mapping of the actions to commands; None for raw actions.
    """
    if contract is None:
        return []
    source = f"Agent {contract.agent} on task {contract.task}; checkpoint {contract.checkpoint}, SHA-256 {contract.digest}..."
    lines = [source]
    if contract.period is not None:
        lines.append(f"Call {name}_step every {contract.period:.9g} s.")
    if contract.observations:
        lines.append(
            f"observation[{inputs}], in this order; a value is the measured one, clipped, then times the scale:"
        )
        lines += [_format_term(term, contract.joints) for term in contract.observations]
    elif contract.history > 1:
        count = inputs // contract.history
        lines.append(
            f"observation[{inputs}]: the last {contract.history} observations of the task, of {count} values each."
        )
    if contract.image_shape:
        shape = ", ".join(map(str, contract.image_shape))
        lines.append(f"observation[{inputs}]: an image [{shape}], channels first; bytes are divided by 255.")
    if contract.history > 1 or any(term.has_history for term in contract.observations):
        lines.append(HISTORY_TEXT)
    if contract.actions:
        text = RAW_TEXT if commands is None else COMMANDS_TEXT
        lines.append(f"action[{outputs}], of these terms: {text}")
        lines += map(_format_term, contract.actions)
    if isinstance(commands, CommandMap):
        lines += _format_commands(contract, commands)
    return lines


def _format_commands(contract: PolicyContract, commands: CommandMap) -> list[str]:
    lines = [
        f"  action[{i}]: {commands.quantities[i]} of {joint}, {commands.units[i]}"
        for i, joint in enumerate(contract.joints)
    ]
    if any(term.is_last_action for term in contract.observations):
        lines.append(LAST_ACTION_TEXT)
    return lines


def _format_term(term: ContractTerm, joints: tuple[str, ...] = ()) -> str:
    """Return a line on a ``term``; ``joints``: names of the joints by action."""
    line = f"  {term.start:>4} to {term.start + term.size - 1:<4} {term.text}"
    if not term.parts:
        return line
    line += f"; of {'the joints of the actions' if term.parts == joints else ', '.join(term.parts)}"
    return f"{line}, {term.reference}" if term.reference else line


def format_macros(contract: PolicyContract | None, name: str, commands: ActionMap | None) -> str:
    """Return C macros of the values of a ``contract`` that programs use: period, digest, joints, and units of ``commands``."""
    if contract is None:
        return ""
    values = {"CHECKPOINT": f'"{contract.digest}"'}
    if contract.period is not None:
        values["PERIOD_US"] = str(round(contract.period * 1e6))
    if contract.joints:
        values["JOINTS"] = _format_names(contract.joints)
    if isinstance(commands, CommandMap):
        values["UNITS"] = _format_names(commands.units)
    return "".join(f"#define {name.upper()}_{key} {value}\n" for key, value in values.items())


def _format_names(names: Iterable[str]) -> str:
    return "{" + ", ".join(f'"{name}"' for name in names) + "}"
