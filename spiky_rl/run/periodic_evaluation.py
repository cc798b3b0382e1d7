"""Evaluations without action noise during a training.

The mean return in training belongs to a noisy policy. Published results of off-policy learning are means of the last evaluations,
or the maximum of all.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from spiky_rl.config import memory_check
from spiky_rl.hosts import find_host
from spiky_rl.hosts.base import SECOND_SIMULATION, SimulationOptions
from spiky_rl.learners.common.checkpoints import get_random_state, restore_random_state
from spiky_rl.learners.common.runner import BaseRunner
from spiky_rl.run.devices import get_memory
from spiky_rl.run.measure import run_episodes
from spiky_rl.run.run_plan import RunPlan

log = logging.getLogger(__name__)

STREAM = 0xE7A1
"""Number that enters the seeds of evaluations, so that they differ from the training's."""


def require_available(plan: RunPlan) -> None:
    """Raise UserError if a plan has evaluations, but the host allows no second simulation or the memory is too small for their environments."""
    if interval := plan.get_setting("evaluation_interval"):
        find_host(plan.request.task).require_ability(
            SECOND_SIMULATION, f"agent.evaluation_interval={interval}"
        )
        episodes = plan.get_setting("evaluation_episodes")
        rows = f"agent.evaluation_episodes={episodes}"
        needed = memory_check.compute_model_bytes(plan.spec, rows, episodes)
        memory_check.require_memory(needed, get_memory(plan.device))


def derive_evaluation_seed(seed: int, env_steps: int) -> int:
    """Return the seed of an evaluation after ``env_steps`` of a training with ``seed``.

    Its first states are neither those of the training nor those of `evaluate` with the training's seed.
    """
    return int(np.random.SeedSequence([STREAM, seed, env_steps]).generate_state(1)[0])


@contextmanager
def open_evaluation(plan: RunPlan) -> Iterator[PeriodicEvaluation | None]:
    """Open the environments of a plan's evaluations; yield None if it has none. Only rank 0 of a distributed run evaluates."""
    if not plan.get_setting("evaluation_interval") or plan.rank != 0:
        yield None
        return
    options = SimulationOptions(seed=plan.seed, clip_actions=plan.get_setting("clip_actions"))
    with plan.host_task.open(plan.device, plan.get_setting("evaluation_episodes"), options) as env:
        yield PeriodicEvaluation(plan, env)


class PeriodicEvaluation:
    """Evaluation of a training's policy every ``evaluation_interval`` environment steps, over one episode of each environment.

    It has environments of its own, and leaves the random generators as they were: a training gets the same weights with and
    without it. The first states follow from seed and environment steps, so that a resumed training is evaluated as an
    uninterrupted one.
    """

    def __init__(self, plan: RunPlan, env: Any) -> None:
        self.interval = plan.get_setting("evaluation_interval")
        self.env, self.seed, self.device, self.best = env, plan.seed, plan.device, float("-inf")

    @property
    def has_evaluated(self) -> bool:
        """Whether there was an evaluation in this process."""
        return self.best > float("-inf")

    def __call__(self, runner: BaseRunner) -> bool:
        """Evaluate the policy of ``runner`` if a multiple of the interval has passed since the last evaluation.

        Return True if it was evaluated and its mean return is the highest so far in this process, or equals it. The mean return goes
        into ``runner.progress`` and to its writer. Raises NonFiniteError for a non-finite action or world.
        """
        progress = runner.progress
        last = progress.evaluation_steps[-1] if progress.evaluation_steps else 0
        if progress.env_steps // self.interval <= last // self.interval:
            return False
        began = time.perf_counter()
        state = get_random_state(self.device)
        try:
            value = statistics.fmean(self._compute_returns(runner, progress.env_steps))
        finally:
            restore_random_state(state, self.device)
        progress.evaluations.append(value)
        progress.evaluation_steps.append(progress.env_steps)
        progress.seconds_evaluation += time.perf_counter() - began
        if runner.writer is not None:
            runner.writer.add_scalar("Evaluation/mean_return", value, progress.iterations - 1)
        log.info("evaluation at %d environment steps: %.2f", progress.env_steps, value)
        self.best = max(self.best, value)
        return value == self.best

    def _compute_returns(self, runner: BaseRunner, env_steps: int) -> list[float]:
        """Return the return of an episode of every environment."""
        policy, count = runner.inference_policy.copy(), self.env.num_envs
        policy.model.eval()
        seed = derive_evaluation_seed(self.seed, env_steps)
        torch.manual_seed(seed)
        returns: list[float] = []
        with torch.inference_mode():
            policy.reset()
            first = self.env.restart([torch.arange(count, device=self.env.device)], seed)
            for step in run_episodes(self.env, lambda obs, _: policy(obs), first, [1] * count):
                policy.reset(step.dones)
                returns += [row["return"] for row in step.rows]
        return returns
