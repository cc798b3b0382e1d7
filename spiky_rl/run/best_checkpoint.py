"""The best checkpoint of a finished training, chosen by a short noise-free evaluation.

The mean return in training belongs to a noisy policy and varies between iterations: without noise, the checkpoint with
the highest mean return may return less than its neighbours.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from spiky_rl.config import files
from spiky_rl.config.progress import format_count
from spiky_rl.learners.common.checkpoint_names import CheckpointError, list_checkpoints
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.learners.common.runner import BaseRunner
from spiky_rl.run import run_folders
from spiky_rl.run.periodic_evaluation import derive_evaluation_seed
from spiky_rl.run.run_plan import RunPlan

log = logging.getLogger(__name__)

MAX_NUMBERED = 3
"""Number of the latest numbered checkpoints to compare with the checkpoint of the highest mean return."""
MAX_SHARE = 0.25
"""Maximum control steps of the evaluation as a share of the training's control steps; never more than one episode."""


def choose_best_checkpoint(
    runner: BaseRunner, env: Any, plan: RunPlan, folder: Path, is_stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """Evaluate the last checkpoints of a run without noise, and copy the best one to ``best.pt``; return the entry ``best`` of ``result.json``.

    The environments are divided among the checkpoints, which all start from the same states if the task can reset single environments.
    Afterwards ``runner`` has the weights of one of them. If there are fewer than two checkpoints to compare, or ``is_stopped``, called in
    every control step, returns true, ``best.pt`` stays and None is returned.
    """
    paths = [*list_checkpoints(folder)[-MAX_NUMBERED:], folder / run_folders.BEST]
    paths = [path for path in paths if path.is_file()][-env.num_envs :]
    episodes = env.num_envs // max(len(paths), 1)
    steps = min(
        int(env.max_episode_length),
        math.ceil(MAX_SHARE * runner.progress.iterations * plan.get_setting("num_steps_per_env")),
    )
    if len(paths) < 2 or not steps:
        return None
    log.info(
        "comparing %d checkpoints without noise, %s each", len(paths), format_count(steps, "control step")
    )
    began = time.perf_counter()
    try:
        policies = [_load_policy(runner, path, plan.device) for path in paths]
    except CheckpointError as error:
        log.warning("%s stays the checkpoint of the highest mean return: %s", run_folders.BEST, error)
        return None
    # `evaluate` with the training's seed must not measure the chosen checkpoint on the episodes that chose it
    seed = derive_evaluation_seed(plan.seed, runner.progress.env_steps)
    returns = _compute_returns(env, policies, episodes, steps, seed, is_stopped)
    if returns is None:
        return None
    best = max(range(len(paths)), key=lambda i: (returns[i], -i))
    if paths[best].name != run_folders.BEST:
        files.write_atomically(
            folder / run_folders.BEST, lambda temporary: shutil.copyfile(paths[best], temporary)
        )
    return {
        "checkpoint": paths[best].name,
        "returns": {path.name: value for path, value in zip(paths, returns, strict=True)},
        "episodes": episodes,
        "control_steps": steps,
        "seconds": time.perf_counter() - began,
    }


def _load_policy(runner: BaseRunner, path: Path, device: str) -> InferencePolicy:
    """Return a copy of the policy in a checkpoint."""
    runner.load(str(path), {"actor": True}, map_location=device)
    return runner.get_inference_policy(device).copy()


def _compute_returns(
    env: Any,
    policies: Sequence[InferencePolicy],
    episodes: int,
    steps: int,
    seed: int,
    is_stopped: Callable[[], bool],
) -> list[float] | None:
    """Return each policy's mean return over the first episodes of its environments, cut after ``steps``; None if stopped."""
    all_envs = torch.arange(env.num_envs, device=env.device)
    measured_envs = all_envs[: episodes * len(policies)].split(episodes)
    # the last policy also acts in the remaining environments
    acting_envs = [*measured_envs[:-1], all_envs[episodes * (len(policies) - 1) :]]
    total = torch.zeros(env.num_envs, device=env.device)
    first = torch.ones_like(total)
    with torch.inference_mode():
        obs = env.restart(measured_envs, seed)
        for _ in range(steps):
            actions = torch.cat([policy(obs[ids]) for policy, ids in zip(policies, acting_envs, strict=True)])
            obs, rewards, dones, _ = env.step(actions)
            for policy, ids in zip(policies, acting_envs, strict=True):
                policy.reset(dones[ids])
            total += rewards * first
            first *= dones == 0
            if is_stopped():
                return None
    return [float(total[ids].mean()) for ids in measured_envs]
