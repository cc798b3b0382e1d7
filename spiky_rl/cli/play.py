"""``play.py``: run a trained policy, measure its episodes, film it, export it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.cli import common, live
from spiky_rl.cli.checkpoint import find_checkpoint
from spiky_rl.cli.common import Plan, log
from spiky_rl.cli.display import Bar
from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.config.schema import MEASURES
from spiky_rl.hosts.common.stopping import started

EXPORTED = ("torchscript", "onnx")
"""What ``--export`` writes; all targets: ``export.py``."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(prog="play.py", description="Play a trained policy.")
    common.add_run_arguments(found)
    live.add_arguments(found)
    found.set_defaults(checkpoint="latest")
    # as many environments as episodes, unless told otherwise
    found.add_argument("--episodes", type=common.positive, default=10, help="episodes to measure")
    found.add_argument(
        "--real-time", action="store_true", help="as slow as the world, to be watched with --visualizer"
    )
    found.add_argument(
        "--export",
        action="store_true",
        help="write TorchScript and ONNX, and prove both equal to the policy (rsl_rl only)",
    )
    return found


def play(argv: list[str]) -> int:
    """Play as the arguments say."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    if args.export and args.rl_library != "rsl_rl":
        raise UserError(f"--export: not available with --rl_library {args.rl_library}, only with rsl_rl")
    live.require(args)
    plan = common.prepare(args)
    if args.num_envs is None:
        plan.num_envs = min(plan.num_envs, args.episodes)

    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv, simulation
    from spiky_rl.hosts.isaaclab.measures import Measures
    from spiky_rl.metrics.energy import energy_text, rival_texts

    checkpoint = find_checkpoint(args, plan)
    folder = checkpoint.parent
    log.info("%s on %s, %d environments, %s", plan.agent, plan.task, plan.num_envs, plan.device)
    log.info("checkpoint: %s", checkpoint)
    log.info("starting the simulator")

    launched = simulation(
        plan.env_cfg, task_id=plan.gym_id, device=plan.device, num_envs=plan.num_envs, seed=plan.seed,
        video=args.video, deterministic=args.deterministic, **live.asked(args),
    )  # fmt: skip
    with started(launched) as gym_env:
        env = live.watched(args, TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions")))
        common.settle(plan, gym_env)
        runner = common.runner_of(plan)(env, plan.config, None, plan.device, plan.identity)
        runner.load(str(checkpoint), {"actor": True, "critic": True}, map_location=plan.device)
        policy = runner.get_inference_policy(plan.device)
        if args.visualizer:
            env.show(policy)
        with Bar("playing", f"{args.episodes} episodes") as shown:
            playback = episodes(env, policy, args.episodes, Measures(env), shown)
        # before films and exports, which may fail
        path = folder / "playback.json"
        files.write_json(path, result_of(playback, plan, checkpoint))
        films = []
        if args.video:
            from spiky_rl.cli.film import film

            films = film(
                env, policy, folder / "videos" / "play" / f"{checkpoint.stem}.mp4", args.video_length
            )
        if args.export:
            from spiky_rl.cli.export import export

            export(runner.alg.get_policy(), env, folder / "exported", EXPORTED)

    rows = playback.rows
    measure = plan.task_spec.measure if plan.task_spec and plan.task_spec.measure in rows[0] else ""
    print_table(rows, measure)
    if playback.cost is not None:
        ann = playback.ann_operations if policy.network is not None else 0.0
        print(f"energy per action: {energy_text(playback.cost, ann_operations=ann)}")
        for text in rival_texts(playback.cost):
            print(f"energy per action: {text}")
    for film_path in films:
        print(film_path)
    print(path)
    return 0


@dataclass
class Playback:
    """Episodes, and what their actions cost."""

    rows: list[dict[str, float]]
    """One row for each episode."""
    cost: Any
    """`spiky_rl.metrics.energy.Cost` of an action, a mean over all of these episodes; None where it is not known."""
    ann_operations: float
    """Multiply-accumulates of the ANN in the policy's place."""
    actions_per_second: float
    """Actions of all environments together, in each second that the policy itself took."""

    def energy_per_metre(self) -> dict[str, float] | None:
        """In µJ by the name of the prices, over all episodes; None where the robot goes nowhere or the cost is not known."""
        from spiky_rl.metrics.energy import per_metre

        if self.cost is None or "distance" not in self.rows[0]:
            return None
        steps, distance = (sum(row[name] for row in self.rows) for name in ("length", "distance"))
        return per_metre(self.cost.as_dict()["energy_nj"], steps, distance)

    def cost_as_dict(self) -> dict[str, Any]:
        """For ``playback.json``."""
        return {
            **self.cost.as_dict(),
            "ann_dense_operations": self.ann_operations,
            "actions_per_second": self.actions_per_second,
            "effective_operations_per_second": self.cost.throughput(self.actions_per_second),
        }


def result_of(playback: Playback, plan: Plan, checkpoint: Path) -> dict[str, Any]:
    """What ``playback.json`` says."""
    from spiky_rl.hosts.common import runs

    rows = playback.rows
    return {
        "task": plan.task,
        "agent": plan.agent,
        "library": plan.library,
        "checkpoint": str(checkpoint),
        "device": plan.device,
        "seed": plan.seed,
        "assets": plan.assets,
        "physics": plan.physics,
        "episodes": len(rows),
        "mean_return": statistics.mean(row["return"] for row in rows),
        "std_return": statistics.stdev([row["return"] for row in rows]) if len(rows) > 1 else 0.0,
        "mean_length": statistics.mean(row["length"] for row in rows),
        "firing_rate": statistics.mean(row["firing_rate"] for row in rows),
        "synops_per_step": statistics.mean(row["operations"] for row in rows),
        "measures": {
            name: statistics.mean(row[name] for row in rows) for name in MEASURES if name in rows[0]
        },
        "cost": None if playback.cost is None else playback.cost_as_dict(),
        "energy_per_metre": playback.energy_per_metre(),
        "rows": rows,
        "versions": runs.versions(),
    }


def episodes(
    env: Any, policy: Any, wanted: int, measures: Any, tell: Callable[[float], None] = lambda share: None
) -> Playback:
    """Play until ``wanted`` episodes have ended, taking the same number from every environment as far as it goes.

    Counting whichever episodes end first would favour the short ones: environment i gives its first
    ``wanted // num_envs`` episodes, one more where i is below the rest. ``tell`` gets to know what share is done.
    """
    import torch

    from spiky_rl.hosts.isaaclab.evaluation import finished
    from spiky_rl.metrics.energy import mean

    count, device = env.num_envs, env.device
    quota = [wanted // count + (i < wanted % count) for i in range(count)]
    rows: list[dict[str, float]] = []
    total, length = (torch.zeros(count, device=device) for _ in range(2))
    # of the episode at hand, summed over its control steps
    rate, operations = (torch.zeros(count, dtype=torch.float64, device=device) for _ in range(2))
    costs, weights, seen = [], [], None
    seconds, steps = 0.0, 0
    with torch.inference_mode():
        env.reset()
        policy.reset()
        measures.restart()
        obs = env.get_observations().to(device)
        while any(quota):
            running = torch.tensor([i for i in range(count) if quota[i]], device=device)
            seen = policy.activity(obs, running)
            rate[running] += seen.rates.to(rate)
            operations[running] += seen.operations_each.to(rate)
            costs.append(seen.cost)
            weights.append(len(running))
            began = finished(device)
            actions = policy(obs)
            seconds += finished(device) - began
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
            tell(_share(rows, quota, length, env.max_episode_length))
    return Playback(
        rows,
        mean(costs, weights) if seen is not None and seen.cost is not None else None,
        seen.ann_operations if seen is not None else 0.0,
        count * steps / seconds,
    )


def _share(rows: Sequence[Any], quota: Sequence[int], length: Any, longest: int) -> float:
    """What of all wanted episodes is played: those that ended, and of those at hand as much as if none ended early."""
    parts = sum(min(steps / longest, 1.0) for left, steps in zip(quota, length.tolist(), strict=True) if left)
    return (len(rows) + parts) / (len(rows) + sum(quota))


def print_table(rows: list[dict[str, float]], measure: str) -> None:
    """The episodes, and their mean."""
    from rich.console import Console
    from rich.table import Table

    units = {
        "distance": r"distance \[m]",
        "upright": r"upright \[s]",
        "velocity_error": r"velocity error \[m/s]",
    }
    columns = ["return", "length", *([measure] if measure else []), "firing_rate", "operations"]
    titles = {"firing_rate": "firing rate", "operations": "operations per step", "length": "steps", **units}
    table = Table(title=None, show_footer=True)
    table.add_column("episode", justify="right", footer="mean")

    def cell(name: str, value: float) -> str:
        if name == "firing_rate":
            return f"{value:.1%}" if value else "-"
        return f"{value:,.0f}" if name in ("length", "operations") else f"{value:.2f}"

    for name in columns:
        table.add_column(
            titles.get(name, name),
            justify="right",
            footer=cell(name, statistics.mean(row[name] for row in rows)),
        )
    for row in rows[:50]:
        table.add_row(str(int(row["episode"])), *(cell(name, row[name]) for name in columns))
    Console().print(table)
    if len(rows) > 50:
        print(f"({len(rows) - 50} more episodes in playback.json)")


def main() -> int:
    """Entry point of ``scripts/play.py``."""
    return common.run(play)
