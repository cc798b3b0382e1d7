"""The best checkpoint of a finished training, chosen by a short noise-free evaluation.

The mean return of a training is that of a policy with noise and changes from iteration to iteration: the checkpoint with
the highest one may return less without noise than its neighbours.
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
from spiky_rl.learners.common.checkpoint_names import CheckpointError, list_checkpoints
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.learners.common.runner import BaseRunner
from spiky_rl.run import run_folders
from spiky_rl.run.run_plan import RunPlan

log = logging.getLogger(__name__)

MAX_NUMBERED = 3
"""Numbered checkpoints that are compared, the last ones, beside that of the highest mean return."""
MAX_SHARE = 0.25
"""Control steps of the evaluation, as a share of those of the training; an episode at most."""


def choose_best_checkpoint(
    runner: BaseRunner, env: Any, plan: RunPlan, folder: Path, is_stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """Evaluate the last checkpoints of a run without noise, and make the best one its ``best.pt``.

    The environments are shared out among the checkpoints, and start in the same states for each of them where a task can reset
    some of its environments alone.

    Args:
        runner: Its weights are those of one of the checkpoints afterwards.
        env: The environments of the training, as rsl_rl sees them.
        plan: The plan of the training.
        folder: The run folder.
        is_stopped: Asked in every control step; if true, ``best.pt`` stays.

    Returns:
        The entry ``best`` of ``result.json``; None where there is nothing to choose from.
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
    log.info("comparing %d checkpoints without noise, %d control steps each", len(paths), steps)
    began = time.perf_counter()
    try:
        policies = [_load_policy(runner, path, plan.device) for path in paths]
    except CheckpointError as error:
        log.warning("%s stays that of the highest mean return: %s", run_folders.BEST, error)
        return None
    returns = _compute_returns(env, policies, episodes, steps, plan.seed, is_stopped)
    if returns is None:
        return None
    best = max(range(len(paths)), key=lambda i: (returns[i], -i))
    if paths[best].name != run_folders.BEST:
        files.write_atomically(folder / run_folders.BEST, lambda beside: shutil.copyfile(paths[best], beside))
    return {
        "checkpoint": paths[best].name,
        "returns": {path.name: value for path, value in zip(paths, returns, strict=True)},
        "episodes": episodes,
        "control_steps": steps,
        "seconds": time.perf_counter() - began,
    }


def _load_policy(runner: BaseRunner, path: Path, device: str) -> InferencePolicy:
    """Return a copy of the policy that a checkpoint holds."""
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
    everywhere = torch.arange(env.num_envs, device=env.device)
    parts = everywhere[: episodes * len(policies)].split(episodes)
    acting = [*parts[:-1], everywhere[episodes * (len(policies) - 1) :]]  # the last one moves what remains
    total = torch.zeros(env.num_envs, device=env.device)
    first = torch.ones_like(total)
    with torch.inference_mode():
        obs = env.restart(parts, seed)
        for _ in range(steps):
            actions = torch.cat([policy(obs[ids]) for policy, ids in zip(policies, acting, strict=True)])
            obs, rewards, dones, _ = env.step(actions)
            for policy, ids in zip(policies, acting, strict=True):
                policy.reset(dones[ids])
            total += rewards * first
            first *= dones == 0
            if is_stopped():
                return None
    return [float(total[ids].mean()) for ids in parts]
