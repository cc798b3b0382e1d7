"""Playback: a trained policy's episodes, and what its actions cost."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spiky_rl.config import files
from spiky_rl.config.progress import ProgressCallback, ProgressFactory, no_progress
from spiky_rl.config.run_plan import RunPlan
from spiky_rl.config.schema import MEASURES
from spiky_rl.hosts.isaaclab.evaluation import synchronize_time
from spiky_rl.hosts.isaaclab.measures import EpisodeMeasures
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.energy import InferenceCost, average, compute_energy_per_metre
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.options import PlayOptions
from spiky_rl.run.provenance import get_versions
from spiky_rl.run.simulate import open_policy
from spiky_rl.run.visualized_env import VisualizerSettings

log = logging.getLogger(__name__)


@dataclass
class PlayResult:
    """Episodes, and what their actions cost."""

    rows: list[dict[str, float]]
    """One row for each episode."""
    cost: InferenceCost | None
    """Cost of an action, a mean over all of these episodes; None where it is not known."""
    ann_operations: float
    """Multiply-accumulates of the ANN in the policy's place."""
    actions_per_second: float
    """Actions of all environments together, in each second that the policy itself took."""

    def means(self) -> dict[str, float]:
        """The mean of every number of an episode, by name."""
        return {name: statistics.mean(row[name] for row in self.rows) for name in self.rows[0]}

    def energy_per_metre(self) -> dict[str, float] | None:
        """In µJ by the name of the prices, over all episodes; None where the robot goes nowhere or the cost is not known."""
        if self.cost is None or "distance" not in self.rows[0]:
            return None
        steps, distance = (sum(row[name] for row in self.rows) for name in ("length", "distance"))
        return compute_energy_per_metre(self.cost.to_dict()["energy_nj"], steps, distance)

    def cost_as_dict(self) -> dict[str, Any] | None:
        """For ``playback.json``; None where the cost is not known."""
        if self.cost is None:
            return None
        return {
            **self.cost.to_dict(),
            "ann_dense_operations": self.ann_operations,
            "actions_per_second": self.actions_per_second,
            "effective_operations_per_second": self.cost.throughput(self.actions_per_second),
        }

    def as_dict(self, plan: RunPlan, checkpoint: Path) -> dict[str, Any]:
        """The content of ``playback.json``.

        Args:
            plan: The run's.
            checkpoint: The policy's.
        """
        means, returns = self.means(), [row["return"] for row in self.rows]
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
            "cost": self.cost_as_dict(),
            "energy_per_metre": self.energy_per_metre(),
            "rows": self.rows,
            "versions": get_versions(),
        }


def play(
    plan: RunPlan,
    options: PlayOptions,
    export: Callable[[Any, Any, Path], object],
    progress: ProgressFactory = no_progress,
    report: Callable[[PlayResult], object] = lambda playback: None,
) -> list[Path]:
    """Play the policy that a plan's request names, film it and export it, as that is asked for.

    Args:
        plan: The run's; it gets as many environments as there are episodes, unless the request says how many.
        options: How it is played.
        export: Exports the host's policy, given its environment, into a folder.
        shown: Shows how far it is.
        report: Gets what was measured, before films and exports, which take longer than the episodes and may fail.

    Returns:
        The films and the result file, which are beside the checkpoint.
    """
    if plan.request.num_envs is None:
        plan.num_envs = min(plan.num_envs, options.episodes)
    checkpoint = find_checkpoint(plan)
    folder, films = checkpoint.parent, list[Path]()
    log.info("%s on %s, %d environments, %s", plan.agent, plan.task, plan.num_envs, plan.device)
    log.info("checkpoint: %s", checkpoint)
    log.info("starting the simulator")
    live = VisualizerSettings(options.visualizer, options.max_visible_envs, options.real_time)
    with open_policy(plan, checkpoint, live) as (env, runner, policy):
        with progress("playing", f"{options.episodes} episodes") as tell:
            playback = run_episodes(env, policy, options.episodes, EpisodeMeasures(env), tell)
        files.write_json(folder / "playback.json", playback.as_dict(plan, checkpoint))
        report(playback)
        if plan.request.video:
            from spiky_rl.run.video import record_video

            to = folder / "videos" / "play" / f"{checkpoint.stem}.mp4"
            films = record_video(env, policy, to, plan.request.video_length, progress)
        if options.export:
            export(runner.alg.get_policy(), env, folder / "exported")
    return [*films, folder / "playback.json"]


def run_episodes(
    env: Any,
    policy: InferencePolicy,
    num_episodes: int,
    measures: EpisodeMeasures,
    report_progress: ProgressCallback = lambda share, detail=None: None,
) -> PlayResult:
    """Play until enough episodes have ended, taking the same number from every environment as far as it goes.

    Counting whichever episodes end first would favour the short ones: environment i gives its first ``wanted // num_envs``
    episodes, one more where i is below the rest.

    Args:
        env: As rsl_rl sees one.
        policy: Acts in it.
        wanted: Episodes of all environments together.
        measures: Measures of the environment.
        tell: Gets to know what share is done.
    """
    count, device = env.num_envs, env.device
    quota = [num_episodes // count + (i < num_episodes % count) for i in range(count)]
    rows: list[dict[str, float]] = []
    total, length = (torch.zeros(count, device=device) for _ in range(2))
    # of the episode at hand, summed over its control steps
    rate, operations = (torch.zeros(count, dtype=torch.float64, device=device) for _ in range(2))
    costs, weights, seen = list[InferenceCost](), list[int](), None
    seconds, steps = 0.0, 0
    with torch.inference_mode():
        env.reset()
        policy.reset()
        measures.reset()
        obs = env.get_observations().to(device)
        while any(quota):
            running = torch.tensor([i for i in range(count) if quota[i]], device=device)
            seen = policy.compute_activity(obs, running)
            rate[running] += seen.rates.to(rate)
            operations[running] += seen.operations_each.to(rate)
            if seen.cost is not None:
                costs.append(seen.cost)
                weights.append(len(running))
            began = synchronize_time(device)
            actions = policy(obs)
            seconds += synchronize_time(device) - began
            obs, rewards, dones, _ = env.step(actions)
            policy.reset(dones)
            total += rewards
            length += 1
            steps += 1
            ended = measures.step(dones)
            for place, i in enumerate(dones.nonzero().flatten().tolist()):
                if quota[i]:
                    quota[i] -= 1
                    row = {"episode": len(rows), "environment": i, "return": float(total[i])}
                    row["length"] = int(length[i])
                    row |= {name: float(values[place]) for name, values in ended.items()}
                    row["firing_rate"] = float(rate[i] / length[i])
                    row["operations"] = float(operations[i] / length[i])
                    rows.append(row)
            for sums in (total, length, rate, operations):
                sums *= dones == 0
            report_progress(_compute_share(len(rows), quota, length.tolist(), env.max_episode_length))
    return PlayResult(
        rows,
        average(costs, weights) if costs else None,
        seen.ann_operations if seen is not None else 0.0,
        count * steps / seconds,
    )


def _compute_share(ended: int, quota: Sequence[int], lengths: Sequence[float], longest: int) -> float:
    """What of all wanted episodes is played: those that ended, and of those at hand as much as if none ended early."""
    parts = sum(min(steps / longest, 1.0) for left, steps in zip(quota, lengths, strict=True) if left)
    return (ended + parts) / (ended + sum(quota))
