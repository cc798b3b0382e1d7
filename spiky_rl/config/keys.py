"""Keys of an agent as a tree of dotted paths, for an error that names the nearest one wherever it stands."""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.errors import RegistryError, UnknownKey, suggest_name
from spiky_rl.config.options import Settings, get_options
from spiky_rl.config.schema import NETWORKS, RunnerSettings

SURE = 0.75
"""Likeness from which a key elsewhere in the tree is meant by a name."""
AHEAD = 0.1
"""How much more alike than its neighbours a key elsewhere must be."""


def with_hint(error: RegistryError) -> str:
    """The text of an ``error`` of an agent's; of a key that there is not, with the nearest one of the whole tree."""
    if not isinstance(error, UnknownKey) or not error.path.startswith("agent."):
        return str(error)
    hint = suggest_key(error.path.removeprefix("agent."), error.known)
    return error.text + hint if hint else str(error)


def suggest_key(path: str, siblings: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the key at ``path``, which there is not: one of its ``siblings``, or a path of the tree; or nothing.

    Args:
        path: The key, dotted, without ``agent.``.
        siblings: Keys that it could be where it stands.
    """
    leaf, among = path.rpartition(".")[2], list(siblings)
    close = difflib.get_close_matches(leaf, among, n=1, cutoff=0.4)
    near = _likeness(leaf, close[0]) if close else 0.0
    given = set(path.split("."))
    best = max(
        list_keys(),
        # of equal names, the one in the same parts, then the least deep one; an actor's before a critic's
        key=lambda key: (
            _likeness(leaf, _leaf(key)),
            len(given & set(key.split("."))),
            -key.count("."),
            -len(key),
        ),
    )
    ratio = _likeness(leaf, _leaf(best))
    if best != path and ratio >= SURE and ratio > near + AHEAD:
        return f"; did you mean '{best}'?"
    return suggest_name(leaf, among)


@functools.cache
def list_keys() -> tuple[str, ...]:
    """Every key that an agent may have, dotted; those of its networks for all networks and parts that there are."""
    keys = [*_settings_keys(RunnerSettings)]
    for name in registry.list_names("networks"):
        inner = [*read_options("networks", name)]
        for key, (kind, _) in read_parts("networks", name).items():
            options = {option for entry in registry.list_names(kind) for option in read_options(kind, entry)}
            inner += [key, *(f"{key}.{option}" for option in sorted(options))]
        keys += [f"{network}.{key}" for network in NETWORKS for key in inner]
    return tuple(dict.fromkeys(keys))


def read_options(kind: str, name: str) -> list[str]:
    """Names of the options that the entry ``name`` declares itself, read from its file without importing it."""
    return [
        field.target.id
        for node in ast.walk(registry.parse_file(kind, name))
        if isinstance(node, ast.ClassDef) and node.name == "Options"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]


def read_parts(kind: str, name: str) -> dict[str, tuple[str, Any]]:
    """The declared `registry.Component.parts` of the entry ``name``, read from its file without importing it."""
    for cls in registry.parse_file(kind, name).body:
        for node in cls.body if isinstance(cls, ast.ClassDef) else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "parts":
                return ast.literal_eval(node.value)
    return {}


def _settings_keys(settings: type[Settings]) -> Iterator[str]:
    for key, field in get_options(settings).items():
        yield key
        if isinstance(field.kind, type) and issubclass(field.kind, Settings):
            yield from (f"{key}.{below}" for below in _settings_keys(field.kind))


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


@functools.cache
def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
