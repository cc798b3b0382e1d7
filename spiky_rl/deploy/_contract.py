"""Contract of a policy with its caller: period, observation terms, action terms, and where the policy is from.

Environments with managers, as of Isaac Lab and mjlab, name the terms; of any other environment only sizes and the period are known.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ContractTerm:
    """A range of an observation or of an action."""

    start: int
    size: int
    text: str
    """Name and, where they are known, history, scale, offset and clip."""


@dataclass(frozen=True)
class PolicyContract:
    """Description of a policy's place in its environment."""

    agent: str
    task: str
    checkpoint: str
    """Name of the file."""
    digest: str
    """First 16 digits of the file's SHA-256."""
    period: float | None
    """Seconds from one control step to the next; None if the environment has no clock."""
    observations: tuple[ContractTerm, ...] = ()
    """Empty if the environment does not name them."""
    actions: tuple[ContractTerm, ...] = ()
    joints: tuple[str, ...] = ()
    """Names of the joints by action; empty if they are not known."""


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
        getattr(env, "step_dt", None),
        _describe_observations(getattr(base, "observation_manager", None), groups),
        actions,
        joints,
    )


def _describe_observations(manager: Any, groups: Iterable[str]) -> tuple[ContractTerm, ...]:
    terms: list[ContractTerm] = []
    start = 0
    if manager is None:
        return ()
    for group in groups:
        if group not in manager.active_terms:
            return ()
        configs = getattr(manager, "_group_obs_term_cfgs", {}).get(
            group, [None] * len(manager.active_terms[group])
        )
        sizes = [math.prod(shape) for shape in manager.group_obs_term_dim[group]]
        for name, size, config in zip(manager.active_terms[group], sizes, configs, strict=True):
            text = f"{group}.{name}{_format_settings(config, ('scale', 'clip', 'history_length'))}"
            terms.append(ContractTerm(start, size, text))
            start += size
    return tuple(terms)


def _describe_actions(manager: Any) -> tuple[tuple[ContractTerm, ...], tuple[str, ...]]:
    terms: list[ContractTerm] = []
    joints: list[str] = []
    start = 0
    if manager is None:
        return (), ()
    for name in manager.active_terms:
        term = manager.get_term(name)
        config, known = getattr(term, "cfg", None), list(getattr(term, "_joint_names", ()))
        text = f"{name} ({type(term).__name__}){_format_settings(config, ('scale', 'offset', 'clip', 'use_default_offset'))}"
        terms.append(ContractTerm(start, term.action_dim, text))
        joints += known if len(known) == term.action_dim else [""] * term.action_dim
        start += term.action_dim
    return tuple(terms), tuple(joints) if all(joints) else ()


def _format_settings(config: Any, names: Iterable[str]) -> str:
    """Return the values of ``config`` that are set, such as ``: scale 0.5, clip (-1, 1)``."""
    values = {name: getattr(config, name, None) for name in names}
    text = ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, 0, {}))
    return f": {text}" if text else ""


def format_contract(contract: PolicyContract | None, name: str, inputs: int, outputs: int) -> list[str]:
    """Return the sentences of a header, one paragraph each, for the policy called ``name``."""
    if contract is None:
        return []
    source = f"Agent {contract.agent} on task {contract.task}; checkpoint {contract.checkpoint}, SHA-256 {contract.digest}..."
    lines = [source]
    if contract.period is not None:
        lines.append(f"Call {name}_step every {contract.period:.9g} s.")
    for array, size, terms in (
        ("observation", inputs, contract.observations),
        ("action", outputs, contract.actions),
    ):
        if terms:
            given = (
                "as the environment gives them" if array == "observation" else "as the environment takes them"
            )
            lines.append(f"{array}[{size}], in this order, values {given}:")
            lines += [f"  {term.start:>4} to {term.start + term.size - 1:<4} {term.text}" for term in terms]
    return lines


def format_macros(contract: PolicyContract | None, name: str) -> str:
    """Return C macros of the values of a ``contract`` that programs use: period, digest and joints."""
    if contract is None:
        return ""
    values = {"CHECKPOINT": f'"{contract.digest}"'}
    if contract.period is not None:
        values["PERIOD_US"] = str(round(contract.period * 1e6))
    if contract.joints:
        values["JOINTS"] = "{" + ", ".join(f'"{joint}"' for joint in contract.joints) + "}"
    return "".join(f"#define {name.upper()}_{key} {value}\n" for key, value in values.items())
