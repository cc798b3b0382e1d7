"""Names of mjlab's tasks, found without importing mjlab."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterator
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
    folders = map(Path, package.submodule_search_locations or ())
    files = [path for folder in folders for path in (folder / "tasks").rglob("__init__.py")]
    values = [value for path in files for value in _iterate_ids(path.read_text(encoding="utf-8"))]
    if not all(isinstance(value, ast.Constant) for value in values):
        return frozenset()
    return frozenset(str(ast.literal_eval(value)) for value in values if value is not None)


def _iterate_ids(text: str) -> Iterator[ast.expr | None]:
    """Yield the expression of each id that a module registers; None for a registration without a keyword ``task_id``."""
    for node in ast.walk(ast.parse(text)):
        if getattr(getattr(node, "func", None), "id", "") == "register_mjlab_task":
            keywords = {word.arg: word.value for word in getattr(node, "keywords", ())}
            yield keywords.get("task_id")
