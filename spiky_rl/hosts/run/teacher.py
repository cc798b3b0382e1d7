"""``train.py --teacher``: the teacher that a student learns from, found and refused before a simulator starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import Plan
from spiky_rl.config.registry import RegistryError
from spiky_rl.config.spec import read_agent
from spiky_rl.hosts.common import runs
from spiky_rl.hosts.common.checkpoints import read_checkpoint
from spiky_rl.hosts.common.run_folders import numbered
from spiky_rl.hosts.common.runner import HostRunner
from spiky_rl.hosts.isaaclab.evaluation import Evaluation
from spiky_rl.hosts.rsl_rl.runner import Runner
from spiky_rl.hosts.rsl_rl.teacher import Teacher, kept_teacher, read_teacher

log = logging.getLogger(__name__)


def find(plan: Plan, named: str | None, checkpoint: Path | None) -> Teacher | None:
    """The teacher of a run; None for an agent that has none.

    Args:
        plan: The run's.
        named: A run folder or checkpoint of the teacher; None: none is named.
        checkpoint: What the run goes on from, which holds the teacher; None: it begins anew.

    Raises:
        UserError: Agent and teacher do not go together.
    """
    if not plan.spec.runner["algorithm"].get("distillation_cfg"):
        if named is not None:
            raise UserError(
                f"--teacher {named}: --agent {plan.agent} learns from no teacher; take one of"
                f" {', '.join(_students())}, or set agent.algorithm.distillation_cfg"
            )
        return None
    if checkpoint is not None:
        if named is not None:
            raise UserError(f"--teacher {named}: {checkpoint} holds its teacher; leave --teacher out")
        return kept_teacher(read_checkpoint(str(checkpoint)), checkpoint)
    if named is None:
        raise UserError(f"--agent {plan.agent}: learns from a teacher first; name its run with --teacher RUN")
    path = Path(named)
    if not path.is_file() and not (path.is_dir() and numbered(path)):
        raise UserError(
            f"--teacher {named}: there is no such file, and no run folder with checkpoints of that name"
        )
    path = runs.find_checkpoint(str(path), plan.request.log_root, plan.experiment, plan.task, plan.agent)
    teacher = read_teacher(path, plan.task)
    for key, default in (("history", 1),):
        theirs, ours = teacher.tree.get(key, default), plan.spec.runner.get(key, default)
        if theirs != ours:
            raise UserError(
                f"{path}: the teacher observes agent.{key}={theirs}, the student {ours}; pass agent.{key}={theirs}"
            )
    log.info("teacher: %s, %s", teacher.agent, path)
    return teacher


def _students() -> list[str]:
    """Agents of ours that learn from a teacher."""
    found = []
    for name in registry.names("agents"):
        try:
            algorithm = read_agent(name)[1].get("algorithm") or {}
        except RegistryError:  # a broken file is named where it is asked for
            continue
        if algorithm.get("distillation_cfg"):
            found.append(name)
    return found


def side_by_side(runner: HostRunner, env: Any, plan: Plan) -> dict[str, str | float | int]:
    """Noise-free returns of student and teacher: an episode of every environment, from the same states.

    Args:
        runner: What trained the student.
        env: As rsl_rl sees one.
        plan: The run's.
    """
    assert isinstance(runner, Runner)
    log.info("an episode of student and teacher in every environment, without noise")
    groups = plan.config["obs_groups"].get("actor") or ["policy"]
    runner.get_inference_policy(plan.device)
    found: dict[str, float] = {}
    with torch.inference_mode():
        for name, policy in (("student", runner.played), ("teacher", runner.teacher_played)):
            evaluation = Evaluation(env, ["nominal"], env.num_envs, groups, plan.seed)
            nominal = evaluation.run(policy)[0][0]["nominal"]
            found |= {f"{name}_return": nominal["mean_return"], f"{name}_std": nominal["std_return"]}
    teacher = runner.alg.teacher
    return {"teacher": teacher.path, "teacher_agent": teacher.agent, **found, "episodes": env.num_envs}
