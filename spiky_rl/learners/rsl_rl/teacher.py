"""A trained policy as a teacher: read from a checkpoint, and built for the task that its student learns."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rsl_rl.models import MLPModel
from rsl_rl.utils import resolve_class
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.spec import build_agent_spec
from spiky_rl.learners.common.checkpoints import CheckpointError, get_identity, read_checkpoint, read_mapping
from spiky_rl.learners.rsl_rl.config import make_runner_cfg


@dataclass(frozen=True)
class Teacher:
    """A trained policy that a student learns from."""

    path: str
    """Where its checkpoint lies."""
    agent: str
    spec: Mapping[str, Any]
    """Its specification, as `AgentSpec.to_dict` gives it."""
    weights: Mapping[str, Tensor] = field(repr=False)

    def build(self, obs: TensorDict, actions: int, device: str) -> MLPModel:
        """The model for what an environment observes.

        Args:
            obs: Observations of all environments, [B, ...].
            actions: A.
            device: Where the model lies.

        Raises:
            CheckpointError: The weights do not fit that.
        """
        config = make_runner_cfg(build_agent_spec(self.agent, self.spec, {}))
        groups = config["obs_groups"].get("actor") or ["policy"]
        missing = [group for group in groups if group not in obs]
        if missing:
            raise CheckpointError(
                f"{self.path}: the teacher observes {', '.join(missing)}, which the task does not give"
            )
        cls, settings = resolve_class(config["actor"])
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            model = cls(obs, {"teacher": groups}, "teacher", actions, **settings)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self.path}: the teacher does not fit what is observed and done here: {detail}"
            ) from None
        return model.to(device).eval()

    @property
    def identity(self) -> dict[str, Any]:
        """The teacher's identity in checkpoints of its student, which hold its weights too."""
        return {"path": self.path, "agent": self.agent, "spec": dict(self.spec)}


def read_teacher(path: Path, task: str) -> Teacher:
    """The teacher in a checkpoint of a run of ours.

    Args:
        path: The checkpoint.
        task: That the student learns.

    Raises:
        CheckpointError: The teacher learned another task, or another program wrote the file.
    """
    if "actor_state_dict" not in read_mapping(str(path)):
        raise CheckpointError(f"{path}: is no checkpoint of an rsl_rl run, which a teacher's has to be")
    loaded = read_checkpoint(str(path))
    theirs = get_identity(loaded)
    if not theirs.get("spec") or "task" not in theirs:
        raise CheckpointError(
            f"{path}: was not written by train.py, so what kind of network it is of is not known"
        )
    if theirs["task"] != task:
        raise CheckpointError(f"{path}: a teacher of task {theirs['task']!r}, not {task!r}")
    return Teacher(str(path), theirs["agent"], theirs["spec"], loaded["actor_state_dict"])


def load_teacher_from_student(loaded: Mapping[str, Any], path: Path) -> Teacher:
    """The teacher that a student's checkpoint, ``loaded`` from ``path``, holds. Raises CheckpointError where there is none."""
    held = (loaded.get("distillation") or {}).get("teacher")
    if not held:
        raise CheckpointError(f"{path}: holds no teacher; it was not trained with --teacher")
    return Teacher(held["path"], held["agent"], held["spec"], loaded["distillation"]["teacher_state_dict"])
