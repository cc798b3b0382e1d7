"""Names of checkpoints in a run folder; importing this module does not import torch."""

from __future__ import annotations

import re
from pathlib import Path

from spiky_rl.config.options import UserError


class CheckpointError(UserError):
    """File that is not a checkpoint, or a checkpoint of another run."""


class OtherLibraryError(CheckpointError):
    """Checkpoint that another learner wrote."""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the numbered checkpoints in a run ``folder``, in the order of their iterations."""
    return sorted(filter(is_numbered, folder.glob("model_*.pt")), key=read_iteration)


def is_numbered(path: Path) -> bool:
    """Return whether the name of a checkpoint tells its iteration, as model_100.pt does."""
    return re.fullmatch(r"model_\d+\.pt", path.name) is not None


def read_iteration(path: Path) -> int:
    """Return the iteration in the name of a numbered checkpoint."""
    return int(path.stem.removeprefix("model_"))


def has_checkpoint(path: Path) -> bool:
    """Return whether ``path`` is a file, or a run folder with checkpoints."""
    return path.is_file() or bool(list_checkpoints(path))


def require_checkpoint(name: str) -> None:
    """Raise CheckpointError unless ``name`` is ``latest``, ``best``, a file, or a run folder with checkpoints."""
    if name not in ("latest", "best") and not has_checkpoint(Path(name)):
        raise CheckpointError(
            f"--checkpoint {name!r}: not found; allowed: a file, a run folder with checkpoints, latest, best or"
            " pretrained"
        )
