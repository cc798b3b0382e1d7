"""Files that are whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` write a file beside ``path``, then move it there: a crash leaves the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # processes in two containers may share a folder and a number
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        fill(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON."""
    write(path, lambda beside: beside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8"))


def cache_folder() -> Path:
    """SPIKY_RL_CACHE, else the user's cache folder."""
    if "SPIKY_RL_CACHE" in os.environ:
        return Path(os.environ["SPIKY_RL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spiky_rl"
