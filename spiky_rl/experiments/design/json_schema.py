"""The JSON Schemas of agent, task and study files: what editors complete and check them by."""

from __future__ import annotations

import json

from pydantic.json_schema import JsonSchemaValue

from spiky_rl.config import json_schema
from spiky_rl.config.json_schema import DIALECT, build_schema
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.experiments.design.study import Study


def study() -> JsonSchemaValue:
    """The schema of a file in ``studies/``."""
    schema = build_schema(Study)
    del schema["properties"]["name"]  # the file's
    return {"$schema": DIALECT, "title": "A study of spiky_rl", **schema}


SCHEMAS = {"agent": json_schema.build_agent_schema, "task": json_schema.build_task_schema, "study": study}


def schema_text(kind: str | None) -> str:
    """The schema of a kind of file as JSON. Raises UserError for another kind than agent, task and study."""
    if kind not in SCHEMAS:
        raise UserError(
            f"schema: {kind!r} has none; choose from {', '.join(SCHEMAS)}{suggest_name(kind, SCHEMAS)}"
        )
    return json.dumps(SCHEMAS[kind](), indent=1, ensure_ascii=False)
