"""A trained policy as a teacher, read from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spiky_rl.learners.common.checkpoint_names import CheckpointError, OtherLibraryError
from spiky_rl.learners.common.checkpoints import get_identity, read_checkpoint

if TYPE_CHECKING:
    from spiky_rl.learners.base import Learner


@dataclass(frozen=True)
class Teacher:
    """Trained policy from which a student learns."""

    path: str
    """Path of the teacher's checkpoint."""
    agent: str
    spec: Mapping[str, Any]
    """Specification of the agent, from `AgentSpec.to_dict`."""
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        """Facts on the teacher in a student's checkpoint, which holds the teacher's weights beside them."""
        return {"path": self.path, "agent": self.agent, "spec": dict(self.spec)}


def read_teacher(path: Path, task: str, learner: Learner) -> Teacher:
    """Return the teacher in a checkpoint of one of our runs, for a student of this ``task`` and ``learner``.

    Raises CheckpointError if the teacher learned another task, or another program wrote the file.
    """
    try:
        loaded = read_checkpoint(str(path), library=learner.name)
    except OtherLibraryError:
        raise CheckpointError(
            f"{path}: not a checkpoint of {learner.name}; a teacher must be trained by the student's library"
        ) from None
    identity = get_identity(loaded)
    if not identity.get("spec") or "task" not in identity:
        raise CheckpointError(f"{path}: not written by spiky train, so the teacher's network is unknown")
    if identity["task"] != task:
        raise CheckpointError(f"{path}: teacher of task {identity['task']!r}, not {task!r}")
    weights = loaded[learner.checkpoint_keys["ppo"][0]]  # teachers are trained by PPO
    return Teacher(str(path), identity["agent"], identity["spec"], weights)


def load_teacher_from_student(loaded: Mapping[str, Any], path: Path) -> Teacher:
    """Return the teacher in a student's checkpoint ``loaded`` from ``path``. Raises CheckpointError if it holds no teacher."""
    saved = (loaded.get("distillation") or {}).get("teacher")
    if not saved:
        raise CheckpointError(f"{path}: holds no teacher; it was not trained with --teacher")
    return Teacher(saved["path"], saved["agent"], saved["spec"], loaded["distillation"]["teacher_state_dict"])
