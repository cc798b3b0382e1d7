"""Evaluation of a policy, undisturbed and under conditions, in one simulation.

Every condition has one environment per episode. Episode i has the same robot and begins in the same state under every condition. A
task's own draws in mid-episode, such as noise, are the same for two policies, but not under two conditions.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config import memory_check
from spiky_rl.config.progress import ProgressCallback, ProgressFactory, format_count, no_progress
from spiky_rl.hosts.base import NOMINAL
from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.energy import average, compute_energy_per_metre
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.command import start_simulation
from spiky_rl.run.devices import get_memory
from spiky_rl.run.measure import PolicyGroup, make_cost_record, run_episodes, synchronize_time
from spiky_rl.run.provenance import collect_provenance, find_commit, get_versions
from spiky_rl.run.run_plan import RANDOM, RunPlan
from spiky_rl.run.simulate import load_inference_policy, open_env

log = logging.getLogger(__name__)

ACTIVITY_INTERVAL = 7
"""Number of control steps from one measurement of activity to the next, because measuring takes longer than acting."""

type Table = dict[str, dict[str, Any]]
"""Results by condition, as in ``evaluation.json``."""
type Quantize = Callable[[InferencePolicy, Any], InferencePolicy]
"""Function (policy, environment) -> quantised policy."""


class RecoveryMeter:
    """Recovery from damage in mid-episode: the reward in the last third of the maximum episode length relative to that in the first half.

    Control steps after an early end of the episode count as steps without reward: a robot that falls does not recover.
    """

    def __init__(self, num_envs: int, max_episode_length: int, device: torch.device | str) -> None:
        """Initialise the sums; ``max_episode_length`` is in control steps."""
        self.length, self.middle = max_episode_length, max_episode_length // 2
        self.late_start = max_episode_length - max_episode_length // 3
        """First control step of the last third."""
        self.steps = 0
        """Number of control steps so far."""
        self.before, self.after = (torch.zeros(num_envs, device=device) for _ in range(2))
        """Sums of the rewards before the middle, and in the last third, [B]."""
        self.has_reached_middle = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def add(self, rewards: Tensor, running: Tensor) -> None:
        """Add the ``rewards`` [B] of a control step where ``running`` [B]: environments still in their measured episode."""
        if self.steps < self.middle:
            self.before = self.before + rewards * running
        if self.steps == self.middle:
            self.has_reached_middle = running.clone()
        if self.steps >= self.late_start:
            self.after = self.after + rewards * running
        self.steps += 1

    def compute(self, ids: Tensor) -> dict[str, Any] | None:
        """Return the recovery of the environments ``ids`` whose episode reached its middle, or None if none did.

        ``before`` and ``after``: mean reward per control step before the middle and in the last third; ``share``: after over
        before, None if before is not above 0 (the share of a negative reward would rise as the reward falls).
        """
        ids = ids[self.has_reached_middle[ids]]
        if len(ids) == 0 or self.middle == 0 or self.late_start == self.length:
            return None
        before = float(self.before[ids].mean()) / self.middle
        after = float(self.after[ids].mean()) / (self.length - self.late_start)
        return {
            "episodes": len(ids),
            "before": before,
            "after": after,
            "share": after / before if before > 0.0 else None,
        }


@dataclass(frozen=True)
class EvaluationPlan:
    """Policy, conditions and episodes of an evaluation."""

    plan: RunPlan
    names: Sequence[str]
    """Names of the conditions."""
    episodes: int
    """Episodes per condition."""
    checkpoint: Path | None
    """Checkpoint of the policy; None for random actions."""

    @property
    def is_plastic(self) -> bool:
        """Whether the policy has plastic weights, so that it is measured twice: with fixed weights and with changing ones."""
        network = self.plan.spec.network
        return self.checkpoint is not None and network is not None and bool(network.parts.get("plasticity"))


def plan_evaluation(plan: RunPlan, conditions: str, episodes: int, frozen_by: str = "") -> EvaluationPlan:
    """Select the conditions of an evaluation and set ``plan.num_envs`` to one environment per episode. Raises UserError.

    Args:
        plan: The run plan; its request names the checkpoint, or `RANDOM`.
        conditions: Comma-separated names of conditions and of the sets ``all`` and ``stress``.
        episodes: Episodes per condition.
        frozen_by: The flag that excludes conditions which change the network; empty if they are allowed.
    """
    names = plan.host_task.select_conditions(conditions, plan.conditioned_policy, frozen_by)
    checkpoint = None if plan.request.checkpoint == RANDOM else find_checkpoint(plan)
    planned = EvaluationPlan(plan, names, episodes, checkpoint)
    plan.num_envs = len(names) * episodes * (1 + planned.is_plastic)
    rows = f"--episodes {episodes} under {format_count(len(names), 'condition')}"
    needed = memory_check.compute_model_bytes(plan.spec, rows, plan.num_envs)
    memory_check.require_memory(needed, get_memory(plan.device))
    return planned


def evaluate(
    evaluation_plan: EvaluationPlan, quantize: Quantize | None = None, progress: ProgressFactory = no_progress
) -> dict[str, Any]:
    """Simulate and return the content of ``evaluation.json``; the policy is quantised first unless ``quantize`` is None."""
    plan, names, episodes = evaluation_plan.plan, evaluation_plan.names, evaluation_plan.episodes
    checkpoint, adapts = evaluation_plan.checkpoint, evaluation_plan.is_plastic
    work = f"{format_count(len(names), 'condition')} x {format_count(episodes, 'episode')}"
    log.info("%s on %s, %s, %s", plan.agent, plan.task, work, plan.device)
    log.info("checkpoint: %s", checkpoint or "none: random actions")
    find_commit()  # found now and cached, because the checkout may change during the evaluation
    log.info("starting the simulator")
    if adapts:
        log.info(
            "the policy is plastic: measured with fixed weights, and with weights that change as it acts"
        )
    plan.host_task.configure_conditions(names)
    with start_simulation(open_env(plan)) as env:
        policy: InferencePolicy | None = None
        if checkpoint is not None:
            _, policy = load_inference_policy(plan, env, checkpoint)
            if quantize is not None:
                policy = quantize(policy, env)
        obs_groups = plan.config["obs_groups"].get("actor") or ["policy"]
        with torch.inference_mode():
            groups = env.condition_groups_class(env, names, episodes, obs_groups, plan.seed, plan.leg, adapts)
            with progress("evaluating", work) as report_progress:
                tables, cost = measure_conditions(groups, policy, report_progress)
        resets = env.worlds_reset
    return {
        "version": 1,
        **plan.description,
        "overrides": list(plan.request.overrides),
        "checkpoint": str(checkpoint or RANDOM),
        "episodes": episodes,
        "conditions": tables[0],
        "adapting": tables[1] if adapts else None,
        "worlds_reset": resets,
        "cost": cost,
        "energy_per_metre": compute_nominal_energy(cost, tables[0][NOMINAL]),
        "solved": plan.task_spec.solved if plan.task_spec else None,
        "versions": get_versions(),
        "provenance": collect_provenance(plan.device, plan.request.task, plan.physics).model_dump(),
    }


def measure_conditions(
    groups: ConditionGroups,
    policy: InferencePolicy | None,
    report_progress: ProgressCallback = lambda share, detail=None: None,
) -> tuple[list[Table], dict[str, Any] | None]:
    """Measure a policy under conditions, over one episode of every environment; ``policy`` is None for random actions.

    Returns:
        Tables of results by condition (a second table if the policy also adapts), and the cost of an action under the first
        condition, or None if the cost is unknown.
    """
    env = groups.env
    acting = _PerturbedPolicy(groups, policy)
    recovery = RecoveryMeter(env.num_envs, int(env.max_episode_length), env.device)
    rows: list[dict[str, float]] = [{}] * env.num_envs
    obs = groups.restart()
    acting.begin()
    for step in run_episodes(env, acting, obs, [1] * env.num_envs):
        acting.reset(step.dones)
        recovery.add(step.rewards, step.running)
        for row in step.rows:
            rows[int(row["environment"])] = row
        report_progress(step.share)
    tables: list[Table] = [{}, {}] if any(groups.adapts) else [{}]
    for index, (name, ids) in enumerate(zip(groups.names, groups.ids, strict=True)):
        episodes = [rows[i] for i in ids.tolist()]
        result = {"text": groups.texts[index], **_summarize_episodes(episodes, acting.activities[index])}
        if groups.damages[index] or name == NOMINAL:
            result["recovery"] = recovery.compute(ids)
        table = tables[1] if groups.adapts[index] else tables[0]
        table[name] = result
    actions_per_second = env.num_envs * acting.steps / acting.seconds
    return tables, _compute_cost(acting.activities[0], actions_per_second)


class _PerturbedPolicy:
    """Policy under conditions, with its computing time and its activity by condition."""

    def __init__(self, groups: ConditionGroups, policy: InferencePolicy | None) -> None:
        self.groups, self.device = groups, groups.env.device
        self.policy = groups.make_random_policy() if policy is None else PolicyGroup(policy, groups)
        self.activities: list[list[tuple[int, PolicyActivity]]] = [[] for _ in groups.names]
        """For each condition: (number of environments, their activity) of every measured step and every policy that acts in it."""
        self.steps, self.seconds = 0, 0.0
        """Number of control steps, and the computing time of the policy."""

    def begin(self) -> None:
        """Begin all episodes."""
        self.groups.begin()
        self.policy.reset()

    def __call__(self, obs: TensorDict, running: Tensor) -> Tensor:
        """Return the perturbed actions [B, A] that reach the robots."""
        obs = self.groups.perturb_observations(obs)
        if isinstance(self.policy, PolicyGroup) and self.steps % ACTIVITY_INTERVAL == 0:
            for ids, activities in zip(self.groups.ids, self.activities, strict=True):
                activities += self.policy.compute_activities(obs, ids[running[ids]])
        started = synchronize_time(self.device)
        actions = self.policy(obs)
        self.seconds += synchronize_time(self.device) - started
        actions = self.groups.perturb_actions(actions)
        self.groups.step()
        self.steps += 1
        return actions

    def reset(self, dones: Tensor) -> None:
        """Reset groups and policy in the environments with ``dones`` [B] not 0."""
        self.groups.reset(dones)
        self.policy.reset(dones)


def _summarize_episodes(
    rows: Sequence[Mapping[str, float]], activities: Sequence[tuple[int, PolicyActivity]]
) -> dict[str, Any]:
    """Return returns, lengths, activity and mean measures of the episodes ``rows`` of one condition.

    A measure's mean is over the episodes that have it.
    """
    returns = [row["return"] for row in rows]
    lengths = [int(row["length"]) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    measures = [name for name in names if name not in ("environment", "return", "length")]
    return {
        "mean_return": statistics.fmean(returns),
        "std_return": statistics.stdev(returns) if len(returns) > 1 else 0.0,
        "returns": returns,
        "mean_length": statistics.fmean(lengths),
        "lengths": lengths,
        **_summarize_activity(activities),
        "measures": {
            name: float(torch.tensor([row[name] for row in rows if name in row]).mean()) for name in measures
        },
    }


def _summarize_activity(activities: Sequence[tuple[int, PolicyActivity]]) -> dict[str, Any]:
    """Return firing rate and operations, as means over the measured control steps and environments; None if not measured."""
    if not activities:
        return {"firing_rate": None, "operations": None}
    weights = [count for count, _ in activities]
    return {
        "firing_rate": statistics.fmean([activity.rate for _, activity in activities], weights),
        "operations": statistics.fmean([activity.operations for _, activity in activities], weights),
    }


def _compute_cost(
    activities: Sequence[tuple[int, PolicyActivity]], actions_per_second: float
) -> dict[str, Any] | None:
    """Return the mean cost of an action as plain data; None if it is unknown."""
    costs = [activity.cost for _, activity in activities if activity.cost is not None]
    if not costs:
        return None
    cost = average(costs, [count for count, _ in activities])
    return make_cost_record(cost, activities[0][1].ann_operations, actions_per_second)


def compute_nominal_energy(
    cost: Mapping[str, Any] | None, nominal: Mapping[str, Any]
) -> dict[str, float] | None:
    """Return the undisturbed energy per metre in µJ by energy model, or None if the distance or the ``cost`` of an action is unknown."""
    distance = nominal["measures"].get("distance")
    if cost is None or distance is None:
        return None
    return compute_energy_per_metre(cost["energy_nj"], nominal["mean_length"], distance)
