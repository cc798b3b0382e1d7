# pyright: reportMissingImports=false
"""Overrides of mjlab's configurations, which are dataclasses and dicts of them."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from spiky_rl.config.errors import shorten, suggest_name
from spiky_rl.config.options import check_number
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.hosts.base import OverrideError

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnvCfg

BOUNDS: dict[str, dict[str, Any]] = {
    "env.sim.mujoco.timestep": {"kind": float, "low": 1e-6, "high": 1.0},
    "env.sim.mujoco.iterations": {"kind": int, "low": 1, "high": 100_000},
    "env.sim.mujoco.ls_iterations": {"kind": int, "low": 1, "high": 100_000},
    "env.decimation": {"kind": int, "low": 1, "high": 100_000},
    "env.episode_length_s": {"kind": float, "above": 0.0, "high": 1e9},
    "env.scene.env_spacing": {"kind": float, "low": 0.0, "high": 1e6},
}
"""Bounds of fields that every task's configuration has, as arguments of `check_number`."""


def apply_overrides(env_cfg: ManagerBasedRlEnvCfg, overrides: Sequence[str]) -> None:
    """Set fields of ``env_cfg``: ``env.PATH=VALUE`` with a YAML value; ``null`` disables a manager's term.

    Raises OverrideError that names an unknown field and the nearest one, or an invalid value.
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.startswith("env."):
            raise OverrideError(f"{text!r}: not available on tasks of mjlab; allowed: env.key=value")
        apply_override(env_cfg, path, value)
    if not env_cfg.auto_reset:
        raise OverrideError(
            "env.auto_reset: false given; allowed: true, because no runner resets environments itself"
        )


def apply_override(env_cfg: ManagerBasedRlEnvCfg, path: str, text: str) -> None:
    """Set the field at ``path``, which begins with ``env.``, to the YAML value in ``text``. Raises OverrideError."""
    node: Any = env_cfg
    parent = "env"
    leaf, rest = _split_key(node, path.removeprefix("env."))
    while rest is not None:
        node, parent = _get_field(node, leaf, parent), f"{parent}.{leaf}"
        leaf, rest = _split_key(node, rest)
    current = _get_field(node, leaf, parent)
    try:
        value = parse_yaml(text)
    except ReadingError as error:
        raise OverrideError(f"{path}: {shorten(text)} is not a value: {error}") from None
    if get_fields(current):
        if not (value is None and isinstance(node, dict)):
            raise OverrideError(
                f"{path}: is a group; set one of its fields: {', '.join(map(str, get_fields(current)))}"
            )
    else:
        value = _convert(path, value, current, _get_type(node, leaf, current))
        if path in BOUNDS:
            check_number(path, value, **BOUNDS[path])
    if isinstance(node, dict):
        node[leaf] = value
    else:
        setattr(node, leaf, value)


def get_fields(node: object) -> Mapping[Any, Any]:
    """Return the fields of ``node``, a configuration or a dict; empty for a plain value."""
    if isinstance(node, Mapping):
        return node
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        return {}
    return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}


def _split_key(node: object, path: str) -> tuple[Any, str | None]:
    """Split a ``path`` below ``node`` into its first key and the rest, None at the end.

    A key of a dict may be a number, or have dots, as patterns of joints do; the longest one counts.
    """
    keys = [key for key in get_fields(node) if f"{path}.".startswith(f"{key}.")]
    key = max(keys, key=lambda key: len(str(key)), default=path.partition(".")[0])
    rest = path[len(str(key)) :]
    return key, rest[1:] if rest else None


def _get_field(node: object, name: Any, parent: str) -> Any:
    """Return the field ``name`` of the ``node`` at the path ``parent``. Raises OverrideError if there is none."""
    fields = get_fields(node)
    if name not in fields:
        names = [str(field) for field in fields]
        hint = suggest_name(name, names) or f"; it has {', '.join(names) or 'none'}"
        raise OverrideError(f"{parent}.{name}: {parent} has no field {name!r}{hint}")
    return fields[name]


def _get_type(owner: object, leaf: Any, current: object) -> Any:
    """Return the declared type of the field ``leaf``, or the type of its ``current`` value if none can be resolved."""
    try:
        return typing.get_type_hints(type(owner))[leaf]
    except (KeyError, NameError):  # an entry of a dict, or an annotation for type checkers alone
        return Any if current is None else type(current)


def _convert(path: str, value: object, current: object, kind: Any) -> Any:
    """Return ``value`` as a ``kind``. Raises OverrideError, with the ``current`` value as an example, for another type."""
    try:
        adapter = TypeAdapter[Any](kind, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise OverrideError(
            f"{path}: {shorten(value)} given; allowed: a value such as {shorten(current)} ({reason})"
        ) from None
