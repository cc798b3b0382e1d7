"""Contract of a policy with its caller: period, observation terms, action terms, and where the policy is from.

Environments with managers, as of Isaac Lab and mjlab, name the terms. Any other environment may describe its task's values itself, in
an attribute ``interface``; otherwise only sizes, bounds and the period are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from spiky_rl.deploy._commands import CommandMap, describe_motors, describe_term, get_joint_names
from spiky_rl.deploy._observations import ContractTerm, describe_observations
from spiky_rl.learners.common.action_bounds import LARGEST_BOUND, ActionMap

UNITS_TEXT = "Units{} are those of hinges: of {}, rad stands for m, rad/s for m/s and N m for N."
HISTORY_TEXT = (
    "A history has the oldest values first, and all values of a control step together; when an episode begins, the first"
    " observation fills all of it."
)
UNBOUNDED_TEXT = "without bounds"


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
    motors: tuple[str, ...] = ()
    """A heading and a line on each group of the simulated robot's motors; empty if they are not known."""
    action_limit: float | None = None
    """Limit of the size of raw actions before their scale; None if there is none."""
    task_terms: tuple[ContractTerm, ...] = ()
    """Terms of one observation of an environment without managers, as its host describes them; empty if it does not."""
    task_note: str = ""
    """Sentence on the names in ``task_terms`` and ``task_actions``."""
    task_actions: tuple[str, ...] = ()
    """Meaning by action, or by choice of discrete actions, in an environment without managers; empty if it is not known."""
    bounds: tuple[tuple[float, float], ...] = ()
    """Smallest and largest action in the task's units, by action; empty if actions are discrete or have none."""
    sliding_joints: frozenset[str] | None = None
    """Names of joints that slide instead of turning; None if the environment does not tell."""
    takes_whole_numbers: bool = False
    """Whether the task takes whole numbers within these bounds."""


def describe_contract(
    env: Any, groups: Sequence[str], agent: str, task: str, checkpoint: Path
) -> PolicyContract:
    """Return the contract of the policy in ``checkpoint``, which acts in ``env``; ``groups``: its observation groups in order."""
    base = getattr(env, "unwrapped", env)
    manager = getattr(base, "action_manager", None)
    actions, joints = _describe_actions(manager)
    interface = getattr(env, "interface", None)
    return PolicyContract(
        agent=agent,
        task=task,
        checkpoint=checkpoint.name,
        digest=hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16],
        period=getattr(env, "control_period", getattr(env, "step_dt", None)),
        observations=describe_observations(base, groups),
        actions=actions,
        joints=joints or getattr(interface, "joints", ()),
        history=getattr(env, "history", 1),
        image_shape=getattr(env, "image_shape", ()),
        motors=tuple(describe_motors(env)),
        action_limit=None if manager is None else getattr(env, "clip_actions", None),
        task_terms=_place_terms(getattr(interface, "observations", ())),
        task_note=getattr(interface, "note", ""),
        task_actions=getattr(interface, "actions", ()),
        bounds=_read_bounds(env),
        sliding_joints=getattr(env, "sliding_joints", None),
        takes_whole_numbers=getattr(env, "takes_whole_numbers", False),
    )


def _place_terms(terms: Iterable[tuple[int, str]]) -> tuple[ContractTerm, ...]:
    """Return ``terms``, each with number of values and meaning, at their places in the observation."""
    sizes, texts = zip(*terms, strict=True) if terms else ((), ())
    return tuple(map(ContractTerm, accumulate(sizes, initial=0), sizes, texts))


def _read_bounds(env: Any) -> tuple[tuple[float, float], ...]:
    bounds = getattr(env, "action_bounds", None)
    if bounds is None:
        return ()
    # as many digits as single precision has
    low, high = ([float(str(x)) for x in bound.numpy()] for bound in bounds)
    return tuple(zip(low, high, strict=True))


def _describe_actions(manager: Any) -> tuple[tuple[ContractTerm, ...], tuple[str, ...]]:
    if manager is None:
        return (), ()
    terms: list[ContractTerm] = []
    joints: list[str] = []
    start = 0
    for name in manager.active_terms:
        term = manager.get_term(name)
        names = get_joint_names(term)
        text = f"{name} ({type(term).__name__}){describe_term(term)}"
        terms.append(ContractTerm(start, term.action_dim, text, parts=tuple(names)))
        joints += names if len(names) == term.action_dim else [""] * term.action_dim
        start += term.action_dim
    # the names are listed by action, so one unknown name leaves out all
    return tuple(terms), tuple(joints) if all(joints) else ()


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
        if contract.sliding_joints is None:
            lines.append(UNITS_TEXT.format("", "a sliding joint"))
        elif contract.sliding_joints:
            names = ", ".join(sorted(contract.sliding_joints))
            lines.append(UNITS_TEXT.format(" of observations and motors", names))
        lines.append(
            f"observation[{inputs}], in this order; a value is the measured one, minus its default value where one is named, clipped,"
            " then times the scale:"
        )
        lines += [_format_term(term, contract.joints) for term in contract.observations]
    else:
        lines += _format_task_observations(contract, inputs)
    if contract.image_shape:
        shape = ", ".join(map(str, contract.image_shape))
        lines.append(f"observation[{inputs}]: an image [{shape}], channels first; bytes are divided by 255.")
    if contract.history > 1 or any(term.has_history for term in contract.observations):
        lines.append(HISTORY_TEXT)
    if contract.actions:
        text = "raw actions of the policy, without their scale, offset and clip:"
        if commands is not None:
            text = "commands to the robot; their scale, offset and clip are applied:"
        lines.append(f"action[{outputs}], of these terms: {text}")
        lines += [_format_term(replace(term, parts=()) if commands else term) for term in contract.actions]
    else:
        lines += _format_task_actions(contract, outputs, commands)
    if isinstance(commands, CommandMap):
        lines += [
            f"  action[{i}]: {commands.quantities[i]} of {joint}, {commands.units[i]}"
            for i, joint in enumerate(contract.joints)
        ]
    elif contract.action_limit is not None:
        lines.append(f"Limit raw actions to -{contract.action_limit:g} to {contract.action_limit:g} first.")
    if any(term.is_last_action for term in contract.observations):
        passed = "the raw action" if contract.action_limit is None else "the raw action, so limited"
        if isinstance(commands, CommandMap):
            passed = "raw_action, which the struct holds after each step"
        lines.append(
            f"For the observation of the last action pass {passed}, clipped and scaled as its line says; before the first step pass zeros."
        )
    return [*lines, *contract.motors]


def _format_task_observations(contract: PolicyContract, inputs: int) -> list[str]:
    """Return lines on the observation of an environment without managers, as far as it is known."""
    lines = [contract.task_note] if contract.task_note else []
    place = f"observation[{inputs}]"
    if contract.history > 1:
        place, count = "one observation", inputs // contract.history
        lines.append(
            f"observation[{inputs}]: the last {contract.history} observations of the task, of {count} values each."
        )
    if contract.task_terms:
        lines += [f"{place}, in this order:", *map(_format_term, contract.task_terms)]
    return lines


def _format_task_actions(contract: PolicyContract, outputs: int, commands: ActionMap | None) -> list[str]:
    """Return lines on the actions of an environment without managers: meaning and bounds, as far as they are known."""
    meanings = [f": {text}" for text in contract.task_actions] or [""] * outputs
    if not contract.bounds:
        if not contract.task_actions:
            return []
        heading = f"action[{outputs}], one number for each choice of the task's action:"
        return [heading, *(f"  action[{i}]{meaning}" for i, meaning in enumerate(meanings))]
    bounds = [_format_bounds(*pair) for pair in contract.bounds]
    is_mapped_later = commands is None and set(bounds) != {UNBOUNDED_TEXT}
    units = (
        "whole numbers in the units of the task"
        if contract.takes_whole_numbers
        else "in the units of the task"
    )
    if is_mapped_later:
        units = "raw: the mapping below gives the actions in the units of the task"
    heading = f"action[{outputs}], {units}"
    if len(set(bounds)) == 1:
        heading, bounds = f"{heading}, {bounds[0]}{' each' if outputs > 1 else ''}", [""] * outputs
    else:
        bounds = [f", {text}" for text in bounds]
    lines = [
        f"  action[{i}]{meaning}{bound}"
        for i, (meaning, bound) in enumerate(zip(meanings, bounds, strict=True))
        if meaning or bound
    ]
    return [f"{heading}{':' if lines else '.'}", *lines]


def _format_bounds(low: float, high: float) -> str:
    has_low, has_high = low > -LARGEST_BOUND, high < LARGEST_BOUND
    if has_low and has_high:
        return f"{low:.9g} to {high:.9g}"
    if has_low or has_high:
        return f"at least {low:.9g}" if has_low else f"at most {high:.9g}"
    return UNBOUNDED_TEXT


def _format_term(term: ContractTerm, joints: tuple[str, ...] = ()) -> str:
    """Return a line on a ``term``; ``joints``: names of the joints by action."""
    line = f"  {term.start:>4} to {term.start + term.size - 1:<4} {term.text}"
    if not term.parts:
        return line
    line += f"; of {'the joints of the actions' if term.parts == joints else ', '.join(term.parts)}"
    return f"{line}, {term.note}" if term.note else line


def format_macros(
    contract: PolicyContract | None, name: str, outputs: int, commands: ActionMap | None
) -> str:
    """Return C macros of the values of a ``contract`` that programs use; see `format_contract` for the arguments."""
    if contract is None:
        return ""
    values = {"CHECKPOINT": f'"{contract.digest}"'}
    if contract.period is not None:
        values["PERIOD_US"] = str(round(contract.period * 1e6))
    if contract.joints:
        values["JOINTS"] = _format_names(contract.joints)
    if isinstance(commands, CommandMap):
        values["UNITS"] = _format_names(commands.units)
        last_actions = [term for term in contract.observations if term.is_last_action]
        # the index at which the observation repeats ``raw_action`` of the struct
        if len(last_actions) == 1 and last_actions[0].size == outputs and last_actions[0].is_plain:
            values["LAST_ACTION"] = str(last_actions[0].start)
    return "".join(f"#define {name.upper()}_{key} {value}\n" for key, value in values.items())


def _format_names(names: Iterable[str]) -> str:
    return "{" + ", ".join(f'"{name}"' for name in names) + "}"
