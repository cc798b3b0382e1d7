"""JSON Schemas of agent and task files for completion and checks in editors, built from the declarations of the options.

A schema checks each key alone. Combinations of values, and options of components outside the package, are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic.json_schema import JsonSchemaValue

from spiky_rl.config import registry
from spiky_rl.config.options import Settings
from spiky_rl.config.schema import DEVICES, NETWORKS, AgentFile, RunnerSettings, TaskSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOREIGN_NAME = {"type": "string", "pattern": ":", "description": "module:Class or path/file.py:Class"}
"""Schema of the name of a component outside the package."""
EXTRA_KEYS = ("unit", "param", "transform", "flags", "metavar")
"""Metadata of options that JSON Schema does not know."""


def build_agent_schema() -> JsonSchemaValue:
    """Build the schema of a file in ``agents/``."""
    layer, schema = _build_layer_schema(), _build_layer_schema(AgentFile)
    del layer["$defs"]  # the same as the schema's
    definitions = schema.pop("$defs")
    schema["properties"]["tasks"]["anyOf"][0]["additionalProperties"] = layer
    return _build_document("An agent of spiky_rl", schema, definitions)


def build_task_schema() -> JsonSchemaValue:
    """Build the schema of a file in ``tasks/``."""
    schema, layer = build_schema(TaskSpec), _build_layer_schema()
    definitions = layer.pop("$defs")
    properties = schema["properties"]
    del properties["name"]  # taken from the file name
    for key in ("num_envs", "steps_per_second"):
        numbers = dict.fromkeys(DEVICES, properties[key].pop("additionalProperties"))
        properties[key] |= {"properties": numbers, "additionalProperties": False}
    properties["num_envs"]["required"] = list(DEVICES)
    properties["agent"] = {**layer, "description": properties["agent"]["description"]}
    return _build_document("A task of spiky_rl", {**schema, "required": ["id"]}, definitions)


def build_schema(settings: type[Settings]) -> JsonSchemaValue:
    """Build the schema of ``settings``, with units in the descriptions and without pydantic's titles."""

    def clean(node: object) -> object:
        if isinstance(node, list):
            return [clean(each) for each in node]
        if not isinstance(node, dict):
            return node
        known = {key: clean(value) for key, value in node.items() if key not in (*EXTRA_KEYS, "title")}
        if "description" in node and node.get("unit"):
            known["description"] = f"{node['description']}, in {node['unit']}"
        return known

    schema = settings.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("title")
        part.pop("description", None)
        part["properties"] = {key: clean(value) for key, value in part.get("properties", {}).items()}
    return schema


def reference_component(kind: str) -> JsonSchemaValue:
    """Return a reference to the schema of a ``kind`` of component."""
    return {"$ref": f"#/$defs/{kind}"}


def _build_layer_schema(settings: type[RunnerSettings] = RunnerSettings) -> JsonSchemaValue:
    schema = build_schema(settings)
    for key in NETWORKS:
        schema["properties"][key] = {
            **reference_component("networks"),
            "description": schema["properties"][key]["description"],
        }
    return schema


def _build_document(
    title: str, schema: Mapping[str, object], definitions: Mapping[str, object]
) -> JsonSchemaValue:
    return {"$schema": DIALECT, "title": title, **schema, "$defs": {**definitions, **_build_kind_schemas()}}


def _build_kind_schemas() -> JsonSchemaValue:
    """Build the schemas of networks and of all kinds of their parts."""
    schemas: JsonSchemaValue = {}
    waiting = ["networks"]
    while waiting:
        kind = waiting.pop()
        if kind not in schemas:
            classes = {name: registry.resolve(kind, name) for name in registry.list_names(kind)}
            schemas[kind] = _build_kind_schema(kind, classes)
            waiting += [part for cls in classes.values() for part, _ in cls.parts.values()]
    return dict(sorted(schemas.items()))


def _build_kind_schema(kind: str, classes: Mapping[str, type[registry.Component]]) -> JsonSchemaValue:
    entries, every = [], {}
    for name, cls in classes.items():
        schema = build_schema(cls.Options)
        properties = schema["properties"] | {
            key: _build_part_schema(part, default, key in cls.listed)
            for key, (part, default) in cls.parts.items()
        }
        named = {"name": {"const": name, "description": registry.read_summary(kind, name)}, **properties}
        entries.append({**schema, "properties": named, "required": ["name"]})
        every |= {key: {} for key in properties}
    foreign = {"type": "object", "properties": {"name": FOREIGN_NAME}, "required": ["name"]}
    # a layer may change options of a component that a lower layer names
    nameless = {
        "type": "object",
        "properties": every,
        "additionalProperties": False,
        "not": {"required": ["name"]},
    }
    return {"anyOf": [{"enum": list(classes)}, FOREIGN_NAME, *entries, foreign, nameless]}


def _build_part_schema(kind: str, default: object, may_be_list: bool) -> JsonSchemaValue:
    choices = [reference_component(kind)]
    if may_be_list:
        choices.append({"type": "array", "items": {"anyOf": [reference_component(kind), {"type": "null"}]}})
    if default is None:
        choices.append({"type": "null"})
    return {"anyOf": choices} if len(choices) > 1 else choices[0]
