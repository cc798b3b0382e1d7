"""``train.py --teacher``: the teacher of a student, found and checked before a simulator starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from spiky_rl.config import registry
from spiky_rl.config.named_code import check_code_is_named, list_texts
from spiky_rl.config.options import RegistryError, UserError
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.config.spec import read_agent
from spiky_rl.hosts.base import NOMINAL
from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.learners.common.checkpoint_names import has_checkpoint
from spiky_rl.learners.common.checkpoints import read_checkpoint
from spiky_rl.learners.common.teacher import Teacher, load_teacher_from_student, read_teacher
from spiky_rl.run import run_folders
from spiky_rl.run.evaluate import measure_conditions
from spiky_rl.run.policies import PRETRAINED, find_teacher_weights
from spiky_rl.run.run_plan import RunPlan, TrainOptions, list_trusted_packages

log = logging.getLogger(__name__)


def find_teacher(plan: RunPlan, options: TrainOptions, checkpoint: Path | None) -> Teacher | None:
    """Return the teacher of a run, or None if the agent learns from no teacher.

    A training that resumes has its teacher in the ``checkpoint``; for a new one, whose checkpoint is None, the ``options`` name it. Raises
    UserError if agent and teacher do not fit together.
    """
    named = options.teacher
    if not plan.spec.runner["algorithm"].get("distillation_cfg"):
        if named is not None:
            raise UserError(
                f"--teacher {named}: --agent {plan.agent} learns from no teacher; allowed:"
                f" {', '.join(_list_distilled_agents())}, or any agent with agent.algorithm.distillation_cfg"
            )
        return None
    if checkpoint is not None:
        if named is not None:
            raise UserError(f"--teacher {named}: {checkpoint} already holds its teacher; remove --teacher")
        loaded = read_checkpoint(str(checkpoint), library=plan.library)
        teacher = load_teacher_from_student(loaded, checkpoint)
        _check_code(teacher, checkpoint, plan, options)
        return teacher
    if named is None:
        raise UserError(f"--agent {plan.agent}: needs a teacher; pass its run folder with --teacher RUN")
    path = _find_teacher_checkpoint(named, plan)
    teacher = read_teacher(path, plan.task, plan.learner)
    _check_code(teacher, path, plan, options)
    teacher_history = teacher.spec.get("history", 1)
    student_history = plan.spec.runner.get("history", 1)
    if teacher_history != student_history:
        raise UserError(
            f"{path}: the teacher observes agent.history={teacher_history}, the student {student_history}; pass"
            f" agent.history={teacher_history}"
        )
    if plan.spec.runner["algorithm"]["distillation_cfg"].get("method") == "conversion":
        if teacher.spec.get("network"):
            raise UserError(
                f"{path}: the teacher {teacher.agent} spikes; allowed for --agent {plan.agent}, which converts its teacher: an MLP"
            )
        _check_conversion(plan, teacher)
    log.info("teacher: %s, %s", teacher.agent, path)
    return teacher


def _check_conversion(plan: RunPlan, teacher: Teacher) -> None:
    """Raise UserError if the student's layers or their activation differ from those of the ``teacher``, whose weights it gets."""
    network, mlp = plan.spec.network, teacher.spec["actor"]
    neuron = None if network is None else network.parts.get("neuron")
    if network is None or not isinstance(neuron, ComponentSpec):
        return  # the converter checks such a network itself and names the part that it refuses
    given = {
        "neuron.activation": getattr(neuron.options, "activation", None),
        "layers": list(getattr(network.options, "layers", ())),
    }
    wanted = {"neuron.activation": mlp.get("activation"), "layers": list(mlp.get("hidden_dims", ()))}
    for key, value in given.items():
        if value and wanted[key] and value != wanted[key]:
            allowed = str(wanted[key]).replace(" ", "")
            raise UserError(
                f"agent.network.{key}: {value} given, the teacher has {wanted[key]}; pass agent.network.{key}={allowed}"
            )


def _find_teacher_checkpoint(named: str, plan: RunPlan) -> Path:
    """Return the checkpoint of ``--teacher``. Raises UserError if it is neither a file nor a run folder with checkpoints."""
    if (weights := find_teacher_weights(named, plan.task, plan.request.log_root)) is not None:
        return weights
    if not has_checkpoint(Path(named)):
        raise UserError(
            f"--teacher {named}: not found; allowed: a checkpoint file, a run folder with checkpoints, or"
            f" {PRETRAINED}:AGENT"
        )
    return run_folders.find_named_checkpoint(named, plan.library)


def _check_code(teacher: Teacher, file: Path, plan: RunPlan, options: TrainOptions) -> None:
    """Raise UserError if the ``teacher`` in ``file`` names code that the user did not name."""
    named = {*options.teacher_code, *list_texts(plan.spec.to_dict())}
    remedy = "pass --teacher_code with each name, separated by commas, to allow the code"
    check_code_is_named(file, teacher.spec, named, remedy, list_trusted_packages())


def _list_distilled_agents() -> list[str]:
    """Return the names of our agents that learn from a teacher."""
    agents = []
    for name in registry.list_names("agents"):
        try:
            algorithm = read_agent(name)[1].get("algorithm") or {}
        except RegistryError:  # a broken file raises when it is loaded by name
            continue
        if algorithm.get("distillation_cfg"):
            agents.append(name)
    return agents


def compare_with_teacher(runner: Any, env: Any, plan: RunPlan) -> dict[str, str | float | int]:
    """Return the noise-free returns of student and teacher, over one episode of every environment from the same states."""
    log.info("comparing student and teacher without noise, one episode in every environment each")
    groups = plan.config["obs_groups"].get("actor") or ["policy"]
    runner.get_inference_policy(plan.device)  # puts the student into evaluation mode
    returns: dict[str, float] = {}
    with torch.inference_mode():
        for name, policy in (("student", runner.inference_policy), ("teacher", runner.teacher_policy)):
            all_envs = ConditionGroups(env, [NOMINAL], env.num_envs, groups, plan.seed)
            tables, _ = measure_conditions(all_envs, policy)
            nominal = tables[0][NOMINAL]
            returns |= {f"{name}_return": nominal["mean_return"], f"{name}_std": nominal["std_return"]}
    teacher = runner.alg.teacher
    return {"teacher": teacher.path, "teacher_agent": teacher.agent, **returns, "episodes": env.num_envs}
