"""An evaluation: the final policy, undisturbed and under conditions, in one simulation.

Every condition has as many environments as there are episodes, and gets one whole episode from each. Episode i of every
condition begins in the same state, and random actions are the same in all of them: what differs is the condition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spiky_rl.config import memory_check
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.run_plan import RANDOM, RunPlan
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, parse_conditions, require_conditions, split_names
from spiky_rl.hosts.isaaclab.conditions.faults import NetworkFault
from spiky_rl.hosts.isaaclab.evaluation import ConditionEvaluation, configure_env
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.energy import compute_energy_per_metre
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.devices import get_memory
from spiky_rl.run.prepare import make_condition_subject
from spiky_rl.run.provenance import find_commit, get_versions, read_provenance
from spiky_rl.run.signals import start_simulation
from spiky_rl.run.simulate import load_inference_policy, open_env

log = logging.getLogger(__name__)

type Table = dict[str, dict[str, Any]]
"""Results by condition, as ``evaluation.json`` has them."""
type Change = Callable[[InferencePolicy, Any], InferencePolicy]
"""Makes of a policy, in its environment, the one that is measured."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The subject of an evaluation: a plan's policy under conditions."""

    plan: RunPlan
    names: Sequence[str]
    """Names of the conditions."""
    episodes: int
    """Episodes per condition."""
    checkpoint: Path | None
    """None: random actions."""

    @property
    def is_plastic(self) -> bool:
        """Whether the policy is measured twice: with its weights as they are, and changing as it acts."""
        network = self.plan.spec.network
        return self.checkpoint is not None and network is not None and bool(network.parts.get("plasticity"))


def plan_evaluation(plan: RunPlan, conditions: str, episodes: int, integers: str = "") -> EvaluationPlan:
    """Select the conditions of an evaluation; the plan then has an environment for each of its episodes. Raises UserError.

    Args:
        plan: Task and agent; its request names the checkpoint, or `RANDOM`.
        conditions: Names with commas, of conditions and of the sets ``all`` and ``stress``.
        episodes: Per condition.
        integers: The flag that asks for the network in integers, which is what it is: no condition may change it. Empty: none.
    """
    subject = make_condition_subject(plan)
    names = parse_conditions(conditions, subject)
    if integers:
        faults = [name for name in names if issubclass(CONDITIONS[name], NetworkFault)]
        if named := [name for name in faults if name in split_names(conditions)]:
            raise UserError(
                f"{integers}: {named[0]!r} changes a network in single precision; leave it out of --conditions"
            )
        if faults:
            log.info("%s leaves out: %s", integers, ", ".join(faults))
        names = [name for name in names if name not in faults]
    require_conditions(names, subject)
    checkpoint = None if plan.request.checkpoint == RANDOM else find_checkpoint(plan)
    measured = EvaluationPlan(plan, names, episodes, checkpoint)
    plan.num_envs = len(names) * episodes * (1 + measured.is_plastic)
    rows = f"--episodes {episodes} under {len(names)} conditions"
    memory_check.require_memory(
        memory_check.compute_model_bytes(plan.spec, rows, plan.num_envs), get_memory(plan.device)
    )
    return measured


def evaluate(
    evaluation_plan: EvaluationPlan, quantize: Change | None = None, progress: ProgressFactory = no_progress
) -> dict[str, Any]:
    """Simulate; returns what ``evaluation.json`` says.

    Args:
        measured: What is measured.
        change: Makes of the policy the one that is measured; None: it is that itself.
        shown: Shows how far it is.
    """
    plan, names, checkpoint, adapts = (
        evaluation_plan.plan,
        evaluation_plan.names,
        evaluation_plan.checkpoint,
        evaluation_plan.is_plastic,
    )
    words = "%s on %s, %d conditions x %d episodes, %s"
    log.info(words, plan.agent, plan.task, len(names), evaluation_plan.episodes, plan.device)
    log.info("checkpoint: %s", checkpoint or "none: random actions")
    find_commit()  # before another is checked out
    log.info("starting the simulator")
    if adapts:
        log.info("the policy is plastic: measured with its weights as they are, and changing as it acts")
    configure_env(plan.env_cfg, names)
    with start_simulation(open_env(plan)) as env:
        policy = None if checkpoint is None else load_inference_policy(plan, env, checkpoint)[1]
        if policy is not None and quantize is not None:
            policy = quantize(policy, env)
        groups = plan.config["obs_groups"].get("actor") or ["policy"]
        with torch.inference_mode():
            evaluation = ConditionEvaluation(
                env, names, evaluation_plan.episodes, groups, plan.seed, plan.leg, adapts
            )
            with progress(
                "evaluating", f"{len(names)} conditions x {evaluation_plan.episodes} episodes"
            ) as tell:
                tables, cost = evaluation.run(policy, tell)
        resets = env.worlds_reset
    return {
        "version": 1,
        **plan.description,
        "checkpoint": str(checkpoint or RANDOM),
        "episodes": evaluation_plan.episodes,
        "conditions": tables[0],
        "adapting": tables[1] if adapts else None,
        "worlds_reset": resets,
        "cost": cost,
        "energy_per_metre": energy_per_metre(cost, tables[0]["nominal"]),
        "solved": plan.task_spec.solved if plan.task_spec else None,
        "versions": get_versions(),
        "provenance": read_provenance(plan.device, plan.physics).model_dump(),
    }


def energy_per_metre(cost: Mapping[str, Any] | None, nominal: Mapping[str, Any]) -> dict[str, float] | None:
    """Energy per metre undisturbed, in µJ by the name of the prices; None where the cost or the way is not known.

    Args:
        cost: Cost of an action, as ``evaluation.json`` has it.
        nominal: The undisturbed condition's results.
    """
    distance = nominal["measures"].get("distance")
    if cost is None or distance is None:
        return None
    return compute_energy_per_metre(cost["energy_nj"], nominal["mean_length"], distance)
