"""``train.py``: train an agent on an Isaac Lab task."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.common import log


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common.Parser(prog="train.py", description="Train an agent on an Isaac Lab task.")
    common.add_run_arguments(found)
    found.add_argument(
        "--max_iterations",
        type=common.positive,
        help="iterations (more of them, when resuming); default: the task's",
    )
    found.add_argument("--run_name", default="", help="suffix of the run folder")
    found.add_argument(
        "--logger",
        default="tensorboard",
        choices=["tensorboard", "wandb", "neptune"],
        help="where scalars go",
    )
    found.add_argument("--log_project_name", help="project of wandb or neptune")
    found.add_argument(
        "--video_interval", type=common.positive, default=2000, help="control steps between clips"
    )
    found.add_argument("--distributed", action="store_true", help="one process per GPU, started by torchrun")
    found.add_argument(
        "--resume_optimizer_state",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --checkpoint: restore the optimiser and its learning rate",
    )
    return found


def train(argv: list[str]) -> int:
    """Train as the arguments say; everything that can be refused is refused before a simulator starts."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    plan = common.prepare(args, distributed=args.distributed)

    # from here on torch, rsl_rl and Isaac Lab are in use
    import torch

    from spiky_rl.hosts.isaaclab.environment import NonFiniteError, TimedVecEnv, simulation
    from spiky_rl.hosts.rsl_rl import runs
    from spiky_rl.hosts.rsl_rl.runner import Progress, Runner, Stop, check_identity, read_checkpoint

    config = plan.config
    config["logger"] = args.logger
    if args.log_project_name:
        config["wandb_project"] = config["neptune_project"] = args.log_project_name
    if args.max_iterations is not None:
        config["max_iterations"] = args.max_iterations
    checkpoint = None
    if args.checkpoint:
        checkpoint = runs.find_checkpoint(
            args.checkpoint, args.log_root, plan.experiment, plan.task, plan.agent
        )
        loaded = read_checkpoint(str(checkpoint))
        check_identity(loaded, plan.identity, str(checkpoint))
        common.check_network(loaded, plan.spec, checkpoint)

    folder = runs.new_run(args.log_root, plan.experiment, args.run_name, plan.task, plan.agent)
    common.write_params(folder, plan)
    log.info(
        "%s on %s, %d environments, %s, seed %d", plan.agent, plan.task, plan.num_envs, plan.device, plan.seed
    )
    log.info("robots: %s", plan.assets)
    log.info("run folder: %s", folder)

    with simulation(
        plan.env_cfg, task_id=plan.task, device=plan.device, num_envs=plan.num_envs, seed=plan.seed,
        video=args.video, deterministic=args.deterministic, distributed=args.distributed,
    ) as gym_env:  # fmt: skip
        env: Any = TimedVecEnv(gym_env, clip_actions=config.get("clip_actions"))
        if args.video:
            from spiky_rl.cli.film import Recorder

            env = Recorder(env, folder / "videos" / "train", args.video_length, args.video_interval)
        torch.manual_seed(plan.seed)
        runner = Runner(
            env, config, str(folder), plan.device, plan.identity, plan.spec.runner.get("picture_interval", 25)
        )
        if checkpoint is not None:
            parts = (
                None
                if args.resume_optimizer_state
                else {"actor": True, "critic": True, "optimizer": False, "iteration": True, "rnd": True}
            )
            runner.load(str(checkpoint), parts, map_location=plan.device)
            log.info(
                "resumed from %s at iteration %d; running %d more",
                checkpoint,
                runner.current_learning_iteration,
                config["max_iterations"],
            )
        best = Best(runner, folder)
        outcome = "finished"
        try:
            with interruptible() as stopping, _display(plan, runner, config["max_iterations"]) as display:

                def after(iteration: Any) -> None:
                    display(iteration)
                    best(iteration)
                    if iteration.index == iteration.last - config["max_iterations"] + 1:
                        _write_spec(runner, plan)
                    if stopping():
                        raise Stop

                runner.on_iteration = after
                runner.learn(
                    config["max_iterations"], init_at_random_ep_len=config.get("init_at_random_ep_len", True)
                )
        except (Stop, KeyboardInterrupt):
            outcome = "stopped"
        except (NonFiniteError, FloatingPointError) as error:
            outcome = f"failed: {error}"
        if args.video:
            env.finish()
        progress: Progress = runner.progress
    result = runs.write_result(
        folder / "result.json", progress,
        task=plan.task, agent=plan.agent, seed=plan.seed, device=plan.device, num_envs=plan.num_envs,
        assets=plan.assets, outcome=outcome, spec_hash=plan.spec.digest,
    )  # fmt: skip
    summarise(result, outcome, args)
    print(folder / "result.json")
    return 1 if outcome.startswith("failed") else 0


class Best:
    """Keeps the checkpoint of the highest mean return."""

    def __init__(self, runner: Any, folder: Path) -> None:
        self.runner, self.path = runner, folder / "best.pt"
        self.value = float("-inf")

    def __call__(self, iteration: Any) -> None:
        value = iteration.progress.returns[-1]
        if value > self.value:
            self.value = value
            self.runner.current_learning_iteration = iteration.index
            self.runner.save(str(self.path))


@contextmanager
def interruptible() -> Iterator[Any]:
    """Ctrl-C and SIGTERM ask for a stop after the iteration at hand; a second Ctrl-C stops at once."""
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.info("stopping after this iteration")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summarise(result: dict[str, Any], outcome: str, args: argparse.Namespace) -> None:
    """The end of a run on the terminal."""
    seconds = result["seconds_total"] or 1.0
    shares = ", ".join(
        f"{part} {result[f'seconds_{part}'] / seconds:.0%}"
        for part in ("simulation", "inference", "learning")
    )
    final, best = (
        f"{v:.2f}" if v is not None else "-"
        for v in (result["mean_return_final"], result["mean_return_best"])
    )
    print(
        f"\n{result['agent']} on {result['task']}: {outcome} after {result['iterations']} iterations, {result['env_steps']:,} steps"
    )
    print(f"  mean return      {final} over the last 10 iterations, {best} at best")
    if result["firing_rate"]:
        print(f"  firing rate      {result['firing_rate']:.1%} of all inner steps")
    print(f"  operations       {result['synops_per_step']:,.0f} per control step")
    print(f"  time             {seconds:.0f} s: {shares}")
    print(
        f"  play it          python scripts/play.py --task {args.task} --agent {args.agent} --checkpoint latest"
    )
    print("  watch it         tensorboard --logdir logs")
    if outcome == "stopped":
        print(
            f"  go on            python scripts/train.py --task {args.task} --agent {args.agent} --checkpoint latest"
        )


def _display(plan: Any, runner: Any, iterations: int) -> Any:
    from spiky_rl.cli.display import Display

    first = runner.current_learning_iteration
    return Display(f"{plan.agent} on {plan.task}", first, first + iterations - 1)


def _write_spec(runner: Any, plan: Any) -> None:
    """The merged specification as text in TensorBoard."""
    writer = runner.logger.writer
    if hasattr(writer, "add_text"):
        rows = "\n".join(f"| {path} | {value} | {origin} |" for path, value, origin in plan.spec.rows())
        writer.add_text(
            "specification",
            f"| key | value | origin |\n| --- | --- | --- |\n{rows}",
            runner.current_learning_iteration,
        )


def main() -> int:
    """Entry point of ``scripts/train.py``."""
    return common.run(train)
