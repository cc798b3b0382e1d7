"""Names of mjlab's tasks, found without importing mjlab."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from pathlib import Path

PREFIX = "Mjlab-"
"""First part of the ids of mjlab's tasks."""
EXTENSIONS = "mjlab.tasks"
"""Entry point group of packages that register tasks with mjlab."""
OUR_ENTRIES = "spiky_rl."
"""Entry points that register no tasks of their own."""


@functools.cache
def list_registered_ids() -> frozenset[str]:
    """Return the ids of mjlab's tasks, read from mjlab's files without importing them.

    Empty if mjlab is not installed, or if the list would be incomplete: another package registers tasks too, or an id is computed.
    """
    package = importlib.util.find_spec("mjlab")
    entries = importlib.metadata.entry_points(group=EXTENSIONS)
    if package is None or any(not entry.value.startswith(OUR_ENTRIES) for entry in entries):
        return frozenset()
    ids = set[str]()
    for folder in package.submodule_search_locations or ():
        for path in Path(folder, "tasks").rglob("__init__.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if getattr(getattr(node, "func", None), "id", "") != "register_mjlab_task":
                    continue
                values = [word.value for word in getattr(node, "keywords", ()) if word.arg == "task_id"]
                if not values or not all(isinstance(value, ast.Constant) for value in values):
                    return frozenset()
                ids |= {str(ast.literal_eval(value)) for value in values}
    return frozenset(ids)
