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

from spiky_rl.config import sizes
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import RANDOM, Plan
from spiky_rl.config.shown import Shown, unseen
from spiky_rl.hosts.common.devices import memory_of
from spiky_rl.hosts.common.playing import PlayedPolicy
from spiky_rl.hosts.common.provenance import find_commit, get_versions, read_provenance
from spiky_rl.hosts.common.stopping import started
from spiky_rl.hosts.isaaclab.conditions import CONDITIONS, chosen, listed, require
from spiky_rl.hosts.isaaclab.conditions.faults import Fault
from spiky_rl.hosts.isaaclab.evaluation import Evaluation, make_ready
from spiky_rl.hosts.run.checkpoint import find_checkpoint
from spiky_rl.hosts.run.prepare import subject_of
from spiky_rl.hosts.run.simulate import played, simulated
from spiky_rl.metrics.energy import per_metre

log = logging.getLogger(__name__)

type Table = dict[str, dict[str, Any]]
"""Results by condition, as ``evaluation.json`` has them."""
type Change = Callable[[PlayedPolicy, Any], PlayedPolicy]
"""Makes of a policy, in its environment, the one that is measured."""


@dataclass(frozen=True)
class Measured:
    """The subject of an evaluation: a plan's policy under conditions."""

    plan: Plan
    names: Sequence[str]
    """Names of the conditions."""
    episodes: int
    """Episodes per condition."""
    checkpoint: Path | None
    """None: random actions."""

    @property
    def adapts(self) -> bool:
        """Whether the policy is measured twice: with its weights as they are, and changing as it acts."""
        network = self.plan.spec.network
        return self.checkpoint is not None and network is not None and bool(network.parts.get("plasticity"))


def select(plan: Plan, conditions: str, episodes: int, integers: str = "") -> Measured:
    """Select the conditions of an evaluation; the plan then has an environment for each of its episodes. Raises UserError.

    Args:
        plan: Task and agent; its request names the checkpoint, or `RANDOM`.
        conditions: Names with commas, of conditions and of the sets ``all`` and ``stress``.
        episodes: Per condition.
        integers: The flag that asks for the network in integers, which is what it is: no condition may change it. Empty: none.
    """
    subject = subject_of(plan)
    names = chosen(conditions, subject)
    if integers:
        faults = [name for name in names if issubclass(CONDITIONS[name], Fault)]
        if named := [name for name in faults if name in listed(conditions)]:
            raise UserError(
                f"{integers}: {named[0]!r} changes a network in single precision; leave it out of --conditions"
            )
        if faults:
            log.info("%s leaves out: %s", integers, ", ".join(faults))
        names = [name for name in names if name not in faults]
    require(names, subject)
    checkpoint = None if plan.request.checkpoint == RANDOM else find_checkpoint(plan)
    measured = Measured(plan, names, episodes, checkpoint)
    plan.num_envs = len(names) * episodes * (1 + measured.adapts)
    rows = f"--episodes {episodes} under {len(names)} conditions"
    sizes.require(sizes.models(plan.spec, rows, plan.num_envs), memory_of(plan.device))
    return measured


def evaluate(measured: Measured, change: Change | None = None, shown: Shown = unseen) -> dict[str, Any]:
    """Simulate; returns what ``evaluation.json`` says.

    Args:
        measured: What is measured.
        change: Makes of the policy the one that is measured; None: it is that itself.
        shown: Shows how far it is.
    """
    plan, names, checkpoint, adapts = measured.plan, measured.names, measured.checkpoint, measured.adapts
    words = "%s on %s, %d conditions x %d episodes, %s"
    log.info(words, plan.agent, plan.task, len(names), measured.episodes, plan.device)
    log.info("checkpoint: %s", checkpoint or "none: random actions")
    find_commit()  # before another is checked out
    log.info("starting the simulator")
    if adapts:
        log.info("the policy is plastic: measured with its weights as they are, and changing as it acts")
    make_ready(plan.env_cfg, names)
    with started(simulated(plan)) as env:
        policy = None if checkpoint is None else played(plan, env, checkpoint)[1]
        if policy is not None and change is not None:
            policy = change(policy, env)
        groups = plan.config["obs_groups"].get("actor") or ["policy"]
        with torch.inference_mode():
            evaluation = Evaluation(env, names, measured.episodes, groups, plan.seed, plan.leg, adapts)
            with shown("evaluating", f"{len(names)} conditions x {measured.episodes} episodes") as tell:
                tables, cost = evaluation.run(policy, tell)
        resets = env.worlds_reset
    return {
        "version": 1,
        **plan.description,
        "checkpoint": str(checkpoint or RANDOM),
        "episodes": measured.episodes,
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
    return per_metre(cost["energy_nj"], nominal["mean_length"], distance)
