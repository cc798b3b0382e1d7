"""JSON Schemas of agent and task files, from the declarations that check them: what an editor completes and underlines.

They accept what the checks accept key by key. What values must be together, and what a component of one's own takes, only the
checks know.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic.json_schema import JsonSchemaValue

from spiky_rl.config import registry
from spiky_rl.config.options import Settings
from spiky_rl.config.schema import DEVICES, NETWORKS, AgentFile, RunnerSettings, TaskSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN_TASKS_KEYS = {"type": "string", "pattern": ":", "description": "module:Class or path/file.py:Class"}
"""The name of a component that is not in the registry."""


def build_agent_schema() -> JsonSchemaValue:
    """The schema of a file in ``agents/``."""
    layer, schema = _layer(), _layer(AgentFile)
    del layer["$defs"]  # the schema's
    definitions = schema.pop("$defs")
    schema["properties"]["tasks"]["anyOf"][0]["additionalProperties"] = layer
    return _document("An agent of spiky_rl", schema, definitions)


def build_task_schema() -> JsonSchemaValue:
    """The schema of a file in ``tasks/``."""
    schema, layer = build_schema(TaskSpec), _layer()
    definitions = layer.pop("$defs")
    properties = schema["properties"]
    del properties["name"]  # the file's
    for key in ("num_envs", "steps_per_second"):
        numbers = dict.fromkeys(DEVICES, properties[key].pop("additionalProperties"))
        properties[key] |= {"properties": numbers, "additionalProperties": False}
    properties["num_envs"]["required"] = list(DEVICES)
    properties["agent"] = {**layer, "description": properties["agent"]["description"]}
    return _document("A task of spiky_rl", {**schema, "required": ["id"]}, definitions)


def build_schema(settings: type[Settings]) -> JsonSchemaValue:
    """The schema of ``settings``, with units in the descriptions and without pydantic's titles."""

    def plain(node: object) -> object:
        if isinstance(node, list):
            return [plain(each) for each in node]
        if not isinstance(node, dict):
            return node
        known = {key: plain(value) for key, value in node.items() if key not in (*OURS, "title")}
        if "description" in node and node.get("unit"):
            known["description"] = f"{node['description']}, in {node['unit']}"
        return known

    schema = settings.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title")
        part.pop("description", None)
        part["properties"] = {key: plain(value) for key, value in part.get("properties", {}).items()}
    return schema


OURS = ("unit", "param", "transform", "flags", "metavar")
"""What fields say of themselves besides what JSON Schema knows."""


def reference_component(kind: str) -> JsonSchemaValue:
    """A reference to the schema of a ``kind``, whose entry is a name or a mapping with its options."""
    return {"$ref": f"#/$defs/{kind}"}


def _layer(settings: type[RunnerSettings] = RunnerSettings) -> JsonSchemaValue:
    schema = build_schema(settings)
    for key in NETWORKS:
        schema["properties"][key] = {
            **reference_component("networks"),
            "description": schema["properties"][key]["description"],
        }
    return schema


def _document(title: str, schema: Mapping[str, object], definitions: Mapping[str, object]) -> JsonSchemaValue:
    return {"$schema": DIALECT, "title": title, **schema, "$defs": {**definitions, **_kinds()}}


def _kinds() -> JsonSchemaValue:
    """Every kind that a network is made of, and the networks."""
    schemas: JsonSchemaValue = {}
    waiting = ["networks"]
    while waiting:
        kind = waiting.pop()
        if kind not in schemas:
            classes = {name: registry.resolve(kind, name) for name in registry.list_names(kind)}
            schemas[kind] = _kind(kind, classes)
            waiting += [part for cls in classes.values() for part, _ in cls.parts.values()]
    return dict(sorted(schemas.items()))


def _kind(kind: str, classes: Mapping[str, type[registry.Component]]) -> JsonSchemaValue:
    entries, every = [], {}
    for name, cls in classes.items():
        schema = build_schema(cls.Options)
        properties = schema["properties"] | {
            key: _part(part, default, key in cls.listed) for key, (part, default) in cls.parts.items()
        }
        named = {"name": {"const": name, "description": registry.summary(kind, name)}, **properties}
        entries.append({**schema, "properties": named, "required": ["name"]})
        every |= {key: {} for key in properties}
    own = {"type": "object", "properties": {"name": OWN_TASKS_KEYS}, "required": ["name"]}
    # a layer above another one may change options of what that one names
    nameless = {
        "type": "object",
        "properties": every,
        "additionalProperties": False,
        "not": {"required": ["name"]},
    }
    return {"anyOf": [{"enum": list(classes)}, OWN_TASKS_KEYS, *entries, own, nameless]}


def _part(kind: str, default: object, listed: bool) -> JsonSchemaValue:
    choices = [reference_component(kind)]
    choices += (
        [{"type": "array", "items": {"anyOf": [reference_component(kind), {"type": "null"}]}}]
        if listed
        else []
    )
    choices += [{"type": "null"}] if default is None else []
    return {"anyOf": choices} if len(choices) > 1 else choices[0]
