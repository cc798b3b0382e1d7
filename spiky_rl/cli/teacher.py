"""``train.py --teacher``: the teacher that a student learns from, found and refused before a simulator starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spiky_rl.cli.common import log
from spiky_rl.config import registry
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import Plan
from spiky_rl.config.registry import RegistryError
from spiky_rl.config.spec import read_agent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flag."""
    parser.add_argument(
        "--teacher",
        metavar="RUN",
        help="run folder or checkpoint of the trained policy that an agent with distillation_cfg learns from before PPO",
    )


def find(args: argparse.Namespace, plan: Plan, checkpoint: Path | None) -> Any:
    """The `Teacher` of a run; None of an agent that has none. Raises UserError where the two do not go together.

    ``checkpoint``: what the run goes on from; it holds the teacher.
    """
    if not plan.spec.runner["algorithm"].get("distillation_cfg"):
        if args.teacher is not None:
            raise UserError(
                f"--teacher {args.teacher}: --agent {plan.agent} learns from no teacher; take one of"
                f" {', '.join(_students())}, or set agent.algorithm.distillation_cfg"
            )
        return None
    from spiky_rl.hosts.common import runs
    from spiky_rl.hosts.common.checkpoints import numbered, read_checkpoint
    from spiky_rl.hosts.rsl_rl.teacher import kept_teacher, read_teacher

    if checkpoint is not None:
        if args.teacher is not None:
            raise UserError(f"--teacher {args.teacher}: {checkpoint} holds its teacher; leave --teacher out")
        return kept_teacher(read_checkpoint(str(checkpoint)), checkpoint)
    if args.teacher is None:
        raise UserError(f"--agent {plan.agent}: learns from a teacher first; name its run with --teacher RUN")
    path = Path(args.teacher)
    if not path.is_file() and not (path.is_dir() and numbered(path)):
        raise UserError(
            f"--teacher {args.teacher}: there is no such file, and no run folder with checkpoints of that name"
        )
    path = runs.find_checkpoint(str(path), args.log_root, plan.experiment, plan.task, plan.agent)
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


def side_by_side(runner: Any, env: Any, plan: Plan) -> dict[str, Any]:
    """Noise-free returns of student and teacher by the protocol of evaluate.py: an episode of every environment, from the same states."""
    import torch

    from spiky_rl.hosts.isaaclab.evaluation import Evaluation

    log.info("an episode of student and teacher in every environment, without noise")
    groups = plan.config["obs_groups"].get("actor") or ["policy"]
    runner.get_inference_policy(plan.device)
    found = {}
    with torch.inference_mode():
        for name, policy in (("student", runner.played), ("teacher", runner.teacher_played)):
            evaluation = Evaluation(env, ["nominal"], env.num_envs, groups, plan.seed)
            nominal = evaluation.run(policy)[0][0]["nominal"]
            found |= {f"{name}_return": nominal["mean_return"], f"{name}_std": nominal["std_return"]}
    teacher = runner.alg.teacher
    return {"teacher": teacher.path, "teacher_agent": teacher.agent, **found, "episodes": env.num_envs}
