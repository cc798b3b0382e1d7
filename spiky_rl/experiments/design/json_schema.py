"""The JSON Schemas of agent, task and study files, for completion and checks in editors."""

from __future__ import annotations

import json

from pydantic.json_schema import JsonSchemaValue

from spiky_rl.config.json_schema import DIALECT, build_agent_schema, build_schema, build_task_schema
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.experiments.design.study import Study


def build_study_schema() -> JsonSchemaValue:
    """Return the schema of a file in ``studies/``."""
    schema = build_schema(Study)
    del schema["properties"]["name"]  # it follows from the file's name
    return {"$schema": DIALECT, "title": "A study of spiky_rl", **schema}


SCHEMAS = {
    "agent": build_agent_schema,
    "task": build_task_schema,
    "study": build_study_schema,
}


def format_schema(kind: str | None) -> str:
    """Return the schema of a ``kind`` of file as JSON. Raises UserError unless the kind is agent, task or study."""
    if kind not in SCHEMAS:
        given = "nothing" if kind is None else repr(kind)
        raise UserError(f"schema: {given} given; allowed: {', '.join(SCHEMAS)}{suggest_name(kind, SCHEMAS)}")
    return json.dumps(SCHEMAS[kind](), indent=1, ensure_ascii=False)
