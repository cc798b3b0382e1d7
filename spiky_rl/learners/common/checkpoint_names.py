"""Checkpoints by their names in a run's folder: what can be said of them without torch, and so at once."""

from __future__ import annotations

import re
from pathlib import Path

from spiky_rl.config.options import UserError


class CheckpointError(UserError):
    """A file that is no checkpoint, or one of another run."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a run's ``folder``, in the order of their iterations."""
    named = [path for path in folder.glob("model_*.pt") if re.fullmatch(r"model_\d+", path.stem)]
    return sorted(named, key=lambda path: int(path.stem.partition("_")[2]))


def require_checkpoint(name: str) -> None:
    """Raise CheckpointError where ``name`` is neither ``latest`` nor ``best``, nor a file, nor a run folder that holds checkpoints."""
    path = Path(name)
    if (
        name not in ("latest", "best")
        and not path.is_file()
        and not (path.is_dir() and list_checkpoints(path))
    ):
        raise CheckpointError(
            f"--checkpoint {name!r}: there is no such file, and no run folder with checkpoints of that name"
        )
