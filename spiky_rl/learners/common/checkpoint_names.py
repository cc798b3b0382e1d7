"""Names of checkpoints in a run folder; importing this module does not import torch."""

from __future__ import annotations

import re
from pathlib import Path

from spiky_rl.config.options import UserError


class CheckpointError(UserError):
    """File that is not a checkpoint, or a checkpoint of another run."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the numbered checkpoints in a run ``folder``, in the order of their iterations."""
    named = [path for path in folder.glob("model_*.pt") if re.fullmatch(r"model_\d+", path.stem)]
    return sorted(named, key=lambda path: int(path.stem.partition("_")[2]))


def require_checkpoint(name: str) -> None:
    """Raise CheckpointError unless ``name`` is ``latest``, ``best``, a file, or a run folder with checkpoints."""
    path = Path(name)
    if (
        name not in ("latest", "best")
        and not path.is_file()
        and not (path.is_dir() and list_checkpoints(path))
    ):
        raise CheckpointError(
            f"--checkpoint {name!r}: not found; allowed: a file, a run folder with checkpoints, latest, best or"
            " pretrained"
        )
