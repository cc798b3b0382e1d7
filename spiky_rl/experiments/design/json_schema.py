"""The JSON Schema of study files."""

from __future__ import annotations

from typing import Any

from spiky_rl.config.json_schema import DIALECT
from spiky_rl.experiments.design.study import KEYS, MOST

NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 1}
KINDS: dict[str, Any] = {
    "question": {**TEXT, "description": "what the study is to answer; the report's title"},
    "agents": {**NAMES, "description": "file stems of agents/, or paths"},
    "tasks": {**NAMES, "description": "file stems of tasks/, gym ids, or paths"},
    "seeds": {
        "anyOf": [{"type": "integer", "minimum": 0}, TEXT, {"type": "array", "items": {"type": "integer"}}],
        "description": "0-9, or a list",
    },
    "vary": {
        "type": "object",
        "propertyNames": {"pattern": "^agent\\."},
        "additionalProperties": {"type": "array", "minItems": 1},
        "description": "values of an agent's key; with several keys, all combinations",
    },
    "budget": {
        "anyOf": [TEXT, {"type": "null"}],
        "description": "of every training: env_steps=N, wall=SECONDS or synops=N",
    },
    "num_envs": {**COUNT, "maximum": MOST["num_envs"]},
    "overrides": {
        "type": "array",
        "items": TEXT,
        "description": "agent.key=value and env.key=value of every cell",
    },
    "episodes": {**COUNT, "maximum": MOST["episodes"], "description": "per condition"},
    "conditions": {**NAMES, "description": "nominal, names of conditions, all or stress"},
    "baseline": {**TEXT, "description": "the agent that all others are compared with"},
    "library": {"enum": ["rsl_rl", "skrl"]},
    "tuning": {**TEXT, "description": "the folder of a tuning, whose values every agent takes"},
}


def study() -> dict[str, Any]:
    """The schema of a file in ``studies/``."""
    return {
        "$schema": DIALECT,
        "title": "A study of spiky_rl",
        "type": "object",
        "properties": {key: KINDS[key] for key in KEYS},
        "required": ["agents", "tasks"],
        "additionalProperties": False,
    }
