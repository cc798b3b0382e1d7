"""Names of mjlab's tasks, found without importing mjlab."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from spiky_rl.hosts.base import read_registered_ids

PREFIX = "Mjlab-"
"""First part of the ids of mjlab's tasks."""
EXTENSIONS = "mjlab.tasks"
"""Entry point group of packages that register tasks with mjlab."""
OUR_ENTRIES = ("spiky_rl.",)
"""Entry points that register no tasks of their own."""


@functools.cache
def list_registered_ids() -> frozenset[str]:
    """Return the ids of mjlab's tasks, without importing it; empty as for `read_registered_ids`."""
    return read_registered_ids("mjlab", EXTENSIONS, OUR_ENTRIES, _iterate_ids)


def _iterate_ids(text: str) -> Iterator[ast.expr | None]:
    """Yield the expression of each id that a module registers; None for a registration without a keyword ``task_id``."""
    for node in ast.walk(ast.parse(text)) if "register_mjlab_task" in text else ():
        if getattr(getattr(node, "func", None), "id", "") == "register_mjlab_task":
            keywords = {word.arg: word.value for word in getattr(node, "keywords", ())}
            yield keywords.get("task_id")
