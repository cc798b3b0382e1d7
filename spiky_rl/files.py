"""Files that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` write a file beside ``path``, then move it there: a crash leaves the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        fill(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON."""
    write(path, lambda beside: beside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8"))
