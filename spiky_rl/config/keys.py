"""Suggestions for unknown keys of an agent: the nearest key among the siblings, or anywhere in the agent."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator

from spiky_rl.config import registry
from spiky_rl.config.errors import RegistryError, UnknownKey, suggest_name
from spiky_rl.config.options import Settings, get_options
from spiky_rl.config.schema import NETWORKS, RunnerSettings

MIN_SIMILARITY = 0.75
"""A key elsewhere in the agent is suggested if its similarity to the unknown key is at least this."""
MIN_ADVANTAGE = 0.1
"""The suggested key must be more similar than the nearest sibling by more than this."""


def format_with_hint(error: RegistryError) -> str:
    """Return the message of ``error``; for an unknown key of an agent, end it with the nearest key of the whole agent."""
    if not isinstance(error, UnknownKey) or not error.path.startswith("agent."):
        return str(error)
    hint = suggest_key(error.path.removeprefix("agent."), error.known)
    return error.text + hint if hint else str(error)


def suggest_key(path: str, siblings: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` with a sibling or the dotted path of another key, or an empty text.

    ``path`` is the dotted path of the unknown key without ``agent.``; ``siblings`` are the known keys of its section.
    """
    leaf, siblings = _get_leaf(path), list(siblings)
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.4)
    sibling_similarity = _compute_similarity(leaf, close[0]) if close else 0.0
    sections = set(path.split("."))
    best = max(
        list_keys(),
        # among equal names prefer the same sections, then the smaller depth, then the shorter path (actor before critic)
        key=lambda key: (
            _compute_similarity(leaf, _get_leaf(key)),
            len(sections & set(key.split("."))),
            -key.count("."),
            -len(key),
        ),
    )
    similarity = _compute_similarity(leaf, _get_leaf(best))
    if best != path and similarity >= MIN_SIMILARITY and similarity > sibling_similarity + MIN_ADVANTAGE:
        return f"; did you mean '{best}'?"
    return suggest_name(leaf, siblings)


@functools.cache
def list_keys() -> tuple[str, ...]:
    """Return the dotted paths of all keys that an agent may have, over all registered networks and parts."""
    keys = [*_iterate_keys(RunnerSettings)]
    for name in registry.list_names("networks"):
        inner = [*registry.read_options("networks", name)]
        for key, (kind, _) in registry.read_parts("networks", name).items():
            options = {
                option for entry in registry.list_names(kind) for option in registry.read_options(kind, entry)
            }
            inner += [key, *(f"{key}.{option}" for option in sorted(options))]
        keys += [f"{network}.{key}" for network in NETWORKS for key in inner]
    return tuple(dict.fromkeys(keys))


def _iterate_keys(settings: type[Settings]) -> Iterator[str]:
    for key, field in get_options(settings).items():
        yield key
        if isinstance(field.kind, type) and issubclass(field.kind, Settings):
            yield from (f"{key}.{below}" for below in _iterate_keys(field.kind))


def _get_leaf(key: str) -> str:
    return key.rpartition(".")[2]


@functools.cache
def _compute_similarity(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
