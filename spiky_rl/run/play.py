"""Playback: episodes of a trained policy, and the cost of its actions.

`play` opens the task, plays the episodes, measures returns, firing rates and operations, and writes them to ``playback.json`` beside the
checkpoint. Video and export follow on request, after the measurements.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config import files
from spiky_rl.config.progress import ProgressCallback, ProgressFactory, format_count, no_progress
from spiky_rl.config.schema import MEASURES
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.energy import InferenceCost, average, compute_energy_per_metre
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.measure import make_cost_record, run_episodes, synchronize_time
from spiky_rl.run.provenance import get_versions
from spiky_rl.run.run_plan import PlayOptions, RunPlan
from spiky_rl.run.simulate import open_policy
from spiky_rl.run.video import record_video

log = logging.getLogger(__name__)


@dataclass
class PlayResult:
    """Measured episodes, and the cost of their actions."""

    rows: list[dict[str, float]]
    """One row per episode."""
    cost: InferenceCost | None
    """Mean cost of an action over all episodes; None if unknown."""
    ann_operations: float
    """Multiply-accumulates of the equal-size ANN."""
    actions_per_second: float
    """Actions of all environments per second of the policy's computing time."""

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean over the episodes of every number, by name; a measure's over the episodes that have it."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: statistics.mean(row[name] for row in self.rows if name in row) for name in names}

    @property
    def energy_per_metre(self) -> dict[str, float] | None:
        """µJ per metre by energy model over the episodes with a distance; None if distance or cost is unknown."""
        rows = [row for row in self.rows if "distance" in row]
        if self.cost is None or not rows:
            return None
        steps, distance = (sum(row[name] for row in rows) for name in ("length", "distance"))
        return compute_energy_per_metre(self.cost.to_dict()["energy_nj"], steps, distance)

    def make_result(self, plan: RunPlan, checkpoint: Path) -> dict[str, Any]:
        """Return the content of ``playback.json``."""
        means, returns = self.means, [row["return"] for row in self.rows]
        return {
            **plan.description,
            "checkpoint": str(checkpoint),
            "episodes": len(self.rows),
            "mean_return": means["return"],
            "std_return": statistics.stdev(returns) if len(returns) > 1 else 0.0,
            "mean_length": means["length"],
            "firing_rate": means["firing_rate"],
            "synops_per_step": means["operations"],
            "measures": {name: means[name] for name in MEASURES if name in means},
            "cost": self.cost and make_cost_record(self.cost, self.ann_operations, self.actions_per_second),
            "energy_per_metre": self.energy_per_metre,
            "rows": self.rows,
            "versions": get_versions(),
        }


def play_policy(
    plan: RunPlan,
    options: PlayOptions,
    export: Callable[[Any, Any, Path], object],
    progress: ProgressFactory = no_progress,
    report: Callable[[PlayResult], object] = lambda playback: None,
) -> list[Path]:
    """Play the policy that a plan's request names; record a video and export the policy on request.

    Without ``--num_envs``, the plan's environments are reduced to the number of episodes. Returns the videos and the result file,
    which lie beside the checkpoint.

    Args:
        export: Exports the learner's policy, given its environment, into a folder.
        report: Receives the measurements before video and export, which take longer than the episodes and may fail.
    """
    if plan.request.num_envs is None:
        plan.num_envs = min(plan.num_envs, options.episodes)
    checkpoint = find_checkpoint(plan)
    folder, videos = checkpoint.parent, list[Path]()
    files.require_writable("--checkpoint", folder)
    log.info(
        "%s on %s, %s, %s", plan.agent, plan.task, format_count(plan.num_envs, "environment"), plan.device
    )
    log.info("checkpoint: %s", checkpoint)
    log.info("starting the simulator")
    with open_policy(plan, checkpoint, options, options.real_time) as (env, runner, policy):
        with progress("playing", format_count(options.episodes, "episode")) as report_progress:
            playback = play_episodes(env, policy, options.episodes, report_progress)
        files.write_json(folder / "playback.json", playback.make_result(plan, checkpoint))
        report(playback)
        if plan.request.video:
            video_path = folder / "videos" / "play" / f"{checkpoint.stem}.mp4"
            videos = record_video(env, policy, video_path, plan.request.video_length, progress)
        if options.export:
            export(runner.get_exportable_policy(), env, folder / "exported")
    return [*videos, folder / "playback.json"]


def play_episodes(
    env: Any,
    policy: InferencePolicy,
    num_episodes: int,
    report_progress: ProgressCallback = lambda share, detail=None: None,
) -> PlayResult:
    """Play ``num_episodes`` in all, divided evenly among the environments.

    Environment i plays ``num_episodes // num_envs`` episodes, and one more if ``i < num_episodes % num_envs``.
    """
    count = env.num_envs
    quota = [num_episodes // count + (i < num_episodes % count) for i in range(count)]
    rows: list[dict[str, float]] = []
    with torch.inference_mode():
        env.reset()
        policy.reset()
        observed = _MeteredPolicy(policy, count, env.device)
        for step in run_episodes(env, observed, env.get_observations().to(env.device), quota):
            policy.reset(step.dones)
            for row in step.rows:
                rows.append({"episode": len(rows), **row, **observed.describe_episode(row)})
            observed.restart(step.dones)
            report_progress(step.share)
    return PlayResult(
        rows,
        average(observed.costs, observed.weights) if observed.costs else None,
        observed.ann_operations,
        count * observed.steps / observed.seconds,
    )


class _MeteredPolicy:
    """Policy with its computing time and its activity in every control step."""

    def __init__(self, policy: InferencePolicy, num_envs: int, device: torch.device | str) -> None:
        self.policy, self.device = policy, device
        self.rate, self.operations = (
            torch.zeros(num_envs, dtype=torch.float64, device=device) for _ in range(2)
        )
        """Sums over the control steps of the current episodes, [B]."""
        self.costs, self.weights = list[InferenceCost](), list[int]()
        self.ann_operations, self.steps, self.seconds = 0.0, 0, 0.0

    def __call__(self, obs: TensorDict, running: Tensor) -> Tensor:
        """Return the policy's actions [B, A] for ``obs``; measure the activity of the ``running`` [B] environments."""
        ids = running.nonzero().flatten()
        activity = self.policy.compute_activity(obs, ids)
        self.rate[ids] += activity.rates.to(self.rate)
        self.operations[ids] += activity.operations_each.to(self.rate)
        self.ann_operations = activity.ann_operations
        if activity.cost is not None:
            self.costs.append(activity.cost)
            self.weights.append(len(ids))
        began = synchronize_time(self.device)
        actions = self.policy(obs)
        self.seconds += synchronize_time(self.device) - began
        self.steps += 1
        return actions

    def describe_episode(self, row: Mapping[str, float]) -> dict[str, float]:
        """Return the mean firing rate and operations per control step of the ended episode ``row``."""
        i, length = int(row["environment"]), row["length"]
        return {
            "firing_rate": float(self.rate[i] / length),
            "operations": float(self.operations[i] / length),
        }

    def restart(self, dones: Tensor) -> None:
        """Reset the sums where ``dones`` [B]."""
        self.rate *= dones == 0
        self.operations *= dones == 0
