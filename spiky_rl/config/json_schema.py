"""JSON Schemas of agent and task files, from the declarations that check them: what an editor completes and underlines.

They accept what the checks accept key by key. What values must be together, and what a component of one's own takes, only the
checks know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.registry import Option
from spiky_rl.config.schema import MEASURES, NETWORKS, OPTIONAL, RUNNER

type Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = {float: "number", int: "integer", str: "string", bool: "boolean", dict: "object"}
OWN = {"type": "string", "pattern": ":", "description": "module:Class or path/file.py:Class"}
"""The name of a component that is not in the registry."""


def agent() -> Schema:
    """The schema of a file in ``agents/``."""
    layer = _layer()
    properties = {
        "summary": {"type": "string", "description": "what it is, in a sentence"},
        **layer["properties"],
        "tasks": {
            "type": ["object", "null"],
            "additionalProperties": layer,
            "description": "what differs on a task",
        },
    }
    return _document("An agent of spiky_rl", {**layer, "properties": properties})


def task() -> Schema:
    """The schema of a file in ``tasks/``."""
    counts = {kind: {"type": "integer", "minimum": 1} for kind in ("cpu", "cuda")}
    speeds = {kind: {"type": "number", "exclusiveMinimum": 0} for kind in ("cpu", "cuda")}
    properties = {
        "id": {"type": "string", "description": "gym id, as Isaac Lab registers it"},
        "summary": {"type": "string"},
        "num_envs": {**_object(counts), "required": ["cpu", "cuda"]},
        "steps_per_second": _object(speeds),
        "measure": {"enum": list(MEASURES), "description": "what playback reports beside the return"},
        "leg": {"type": "string", "description": "joints of one leg, as a regular expression"},
        "solved": {"type": "number", "description": "mean return from which the task counts as solved"},
        "env": {"type": "object", "description": "overrides of the environment's configuration"},
        "agent": _layer(),
    }
    return _document("A task of spiky_rl", {**_object(properties), "required": ["id"]})


def option(declared: Option) -> Schema:
    """The schema of one value."""
    found = _value(declared)
    if declared.default is None:
        found = {"anyOf": [found, {"type": "null"}]}
    unit = f", in {declared.unit}" if declared.unit else ""
    return {**found, "description": f"{declared.doc}{unit}", "default": declared.default}


def _value(declared: Option) -> Schema:
    if declared.choices:
        return {"enum": list(declared.choices)}
    bounded = any(bound is not None for bound in (declared.low, declared.high, declared.above))
    bounds = {"minimum": declared.low, "maximum": declared.high, "exclusiveMinimum": declared.above}
    limits = {key: bound for key, bound in bounds.items() if bound is not None}
    if not isinstance(declared.default, list | tuple):
        kind = declared.of if declared.default is None else type(declared.default)
        return {"type": TYPES[kind], **limits} if kind else {}
    kind = declared.of or (int if bounded else None)
    least, most = declared.least, declared.most
    if declared.lengths:
        least, most = min(declared.lengths), max(declared.lengths)
    return {
        "type": "array",
        "items": {"type": TYPES[kind], **limits} if kind else {},
        "minItems": least,
        **({"maxItems": most} if most is not None else {}),
    }


def component(kind: str) -> Schema:
    """A reference to the schema of a kind, whose entry is a name or a mapping with its options."""
    return {"$ref": f"#/$defs/{kind}"}


def _layer() -> Schema:
    group = _group(RUNNER)
    networks = {key: {**component("networks"), "description": meaning} for key, meaning in NETWORKS.items()}
    return {**group, "properties": {**group["properties"], **networks}}


def _group(declared: Mapping[str, Any]) -> Schema:
    properties: Schema = {}
    for key, below in declared.items():
        found = _group(below) if isinstance(below, Mapping) else option(below)
        properties[key] = {"anyOf": [found, {"type": "null"}]} if key in OPTIONAL else found
    return _object(properties)


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _document(title: str, schema: Schema) -> Schema:
    return {"$schema": DIALECT, "title": title, **schema, "$defs": _kinds()}


def _kinds() -> Schema:
    """Every kind that a network is made of, and the networks."""
    found: Schema = {}
    waiting = ["networks"]
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            classes = {name: registry.resolve(kind, name) for name in registry.names(kind)}
            found[kind] = _kind(kind, classes)
            waiting += [part for cls in classes.values() for part, _ in cls.parts.values()]
    return dict(sorted(found.items()))


def _kind(kind: str, classes: Mapping[str, type[registry.Component]]) -> Schema:
    entries, every = [], {}
    for name, cls in classes.items():
        properties = {key: option(declared) for key, declared in cls.options.items()}
        properties |= {
            key: _part(part, default, key in cls.listed) for key, (part, default) in cls.parts.items()
        }
        named = {"name": {"const": name, "description": registry.summary(kind, name)}, **properties}
        entries.append({**_object(named), "required": ["name"]})
        every |= {key: {} for key in properties}
    own = {"type": "object", "properties": {"name": OWN}, "required": ["name"]}
    # a layer above another one may change options of what that one names
    nameless = {**_object(every), "not": {"required": ["name"]}}
    return {"anyOf": [{"enum": list(classes)}, OWN, *entries, own, nameless]}


def _part(kind: str, default: Any, listed: bool) -> Schema:
    choices = [component(kind)]
    choices += [{"type": "array", "items": {"anyOf": [component(kind), {"type": "null"}]}}] if listed else []
    choices += [{"type": "null"}] if default is None else []
    return {"anyOf": choices} if len(choices) > 1 else choices[0]
