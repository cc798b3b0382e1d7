"""The model of a teacher."""

from __future__ import annotations

from rsl_rl.models import MLPModel
from tensordict import TensorDict

from spiky_rl.config.spec import build_agent_spec
from spiky_rl.learners.common.checkpoints import CheckpointError
from spiky_rl.learners.common.teacher import Teacher
from spiky_rl.learners.rsl_rl.actor import build_actor


def build_teacher(teacher: Teacher, obs: TensorDict, actions: int, device: str) -> MLPModel:
    """Return a teacher's model for an environment's observations ``obs`` [B, ...] and number of ``actions``.

    Raises CheckpointError if the weights do not fit.
    """
    spec = build_agent_spec(teacher.agent, teacher.spec, {})
    groups = (spec.runner.get("obs_groups") or {}).get("actor") or ["policy"]
    missing = [group for group in groups if group not in obs]
    if missing:
        raise CheckpointError(
            f"{teacher.path}: the teacher needs the observation groups {', '.join(missing)}, which the task does not have"
        )
    model = build_actor(spec, obs, actions, groups, role="teacher")
    try:
        model.load_state_dict(teacher.weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{teacher.path}: the teacher does not fit the observations and actions of this task: {detail}"
        ) from None
    return model.to(device).eval()
