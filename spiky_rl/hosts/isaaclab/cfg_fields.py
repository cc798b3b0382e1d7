"""Fields of Isaac Lab's configurations: conversion to plain values, and overrides by path."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any

from spiky_rl.config.errors import get_error_text, shorten, suggest_name
from spiky_rl.hosts.base import OverrideError
from spiky_rl.hosts.isaaclab.cfg_checks import (
    check_null_allowed,
    check_values,
    get_fields,
    is_solver_choice,
)
from spiky_rl.hosts.isaaclab.workflows import EnvCfg

if TYPE_CHECKING:
    from isaaclab_rl.rsl_rl import RslRlBaseRunnerCfg

PLAIN_TYPES = {"bool", "int", "float", "str", "list", "tuple", "dict", "None", "NoneType"}
"""Types in annotations whose values can all be written as text."""
COMPATIBLE_TYPE = {"float": "int", "list": "tuple", "tuple": "list"}
"""Type in an annotation -> another type whose values it takes."""


def to_plain_dict(agent_cfg: RslRlBaseRunnerCfg | Mapping[str, object] | None) -> dict[str, Any]:
    """Return a registered ``agent_cfg`` as nested dicts, upgraded to the installed rsl_rl, without missing fields."""
    from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg

    if agent_cfg is None or isinstance(agent_cfg, Mapping):
        return dict(agent_cfg or {})
    agent_cfg = handle_deprecated_rsl_rl_cfg(agent_cfg, importlib.metadata.version("rsl-rl-lib"))
    return drop_missing(agent_cfg, agent_cfg.to_dict())  # type: ignore[attr-defined]


def drop_missing(cfg: object, node: Any) -> Any:
    """Return ``node``, the nested dict of ``cfg``, without missing fields, which Isaac Lab converts to empty dicts."""
    if not hasattr(cfg, "__dataclass_fields__"):
        return node
    values = {key: value for key, value in get_fields(cfg).items() if not isinstance(value, type(MISSING))}
    return {key: drop_missing(value, node[key]) for key, value in values.items() if key in node}


def apply_override(env_cfg: EnvCfg, path: str, text: str) -> None:
    """Set the field of ``env_cfg`` at ``path``, which starts with ``env.``, to the value in ``text``.

    Isaac Lab parses it as true, false, null, none or another Python literal, or else takes the text itself; none disables a manager's
    term. Raises OverrideError if the field is unknown, or the value has another type.
    """
    from isaaclab_tasks.utils.hydra import _parse_val as parse

    owner, leaf = _find_owner(env_cfg, path)
    current = get_fields(owner)[leaf]
    declared = str(getattr(getattr(type(owner), "__dataclass_fields__", {}).get(leaf), "type", ""))
    try:
        value = parse(text)
    except (TypeError, MemoryError) as error:  # of a set with a list in it, and of thousands of brackets
        raise OverrideError(f"{path}: {shorten(text)} is not a value: {get_error_text(error)}") from None
    if fields := get_fields(current):
        if value is not None or path.count(".") == 1:
            raise OverrideError(f"{path}: is a group; set one of its fields: {', '.join(fields)}")
        if "None" not in declared or path.startswith("env.sim."):
            # simulation fields may default to None, which Isaac Lab replaces
            check_null_allowed(path, current)
    elif not (is_compatible(value, current, declared) or is_solver_choice(path, value)):
        raise OverrideError(
            f"{path}: expected {declared or type(current).__name__} such as {current!r}, got {text}"
        )
    check_values(path, value, current)
    if (type(current), type(value)) in ((float, int), (tuple, list)):
        value = type(current)(value)
    if isinstance(owner, dict):
        owner[leaf] = value
    else:
        setattr(owner, leaf, value)


def _find_owner(env_cfg: EnvCfg, path: str) -> tuple[Any, str]:
    """Return the group that has the field at ``path``, and the field's name. Raises OverrideError for an unknown field."""
    owner: object = None
    node: Any = env_cfg
    root, *parts = path.split(".")
    for depth, part in enumerate(parts):
        owner, fields = node, get_fields(node)
        if part not in fields:
            hint = suggest_name(part, fields) or f"; it has {', '.join(fields) or 'none'}"
            raise OverrideError(f"{path}: {'.'.join((root, *parts[:depth]))} has no field {part!r}{hint}")
        node = fields[part]
    return owner, parts[-1]


def is_compatible(value: object, current: object, declared: str) -> bool:
    """Return whether ``value`` may replace ``current``: it has the same type, or one in the field's annotation ``declared``."""
    # type arguments, as in dict[str, float], are not types of the field itself
    outside = re.sub(r"\b(dict|list|tuple|set|type|Sequence|Mapping)\[[^\]]*\]", r"\1", declared)
    named = re.findall(r"\w+", outside) + ["NoneType"] * ("None" in outside)
    kind = type(value).__name__
    if kind in named:
        return True
    if current is None:
        # a field of no declared type, or of a class of Isaac Lab's own, may have any value
        return (
            not named
            or not PLAIN_TYPES.issuperset(named)
            or any(COMPATIBLE_TYPE.get(name) == kind for name in named)
        )
    kinds = {bool: {bool}, int: {int}, float: {int, float}, tuple: {tuple, list}, list: {tuple, list}}
    return type(value) in kinds.get(type(current), {str} if isinstance(current, str) else {type(current)})
