"""The JSON Schema of study files."""

from __future__ import annotations

from pydantic.json_schema import JsonSchemaValue

from spiky_rl.config.json_schema import DIALECT, of
from spiky_rl.experiments.design.study import Study


def study() -> JsonSchemaValue:
    """The schema of a file in ``studies/``."""
    schema = of(Study)
    del schema["properties"]["name"]  # the file's
    return {"$schema": DIALECT, "title": "A study of spiky_rl", **schema}
