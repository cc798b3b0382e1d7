"""``train.py``: train an agent on an Isaac Lab task."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiky_rl.cli import common, live, teacher
from spiky_rl.cli.best import Best
from spiky_rl.cli.checkpoint import find_checkpoint
from spiky_rl.cli.common import Plan, log
from spiky_rl.cli.display import Display, show_iteration
from spiky_rl.config import files
from spiky_rl.config.arguments import up_to
from spiky_rl.config.registry import UserError
from spiky_rl.config.budget import Budget
from spiky_rl.config.budget import parse as parse_budget
from spiky_rl.hosts.common import processes
from spiky_rl.hosts.common.stopping import Asked, stoppable

PROGRESS = "progress.json"
"""In a run's folder: how far it is, written after every iteration."""
UNCOUNTED = 1_000_000
"""Iterations of a run that another budget ends."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(prog="train.py", description="Train an agent on an Isaac Lab task.")
    common.add_run_arguments(found)
    live.add_arguments(found)
    teacher.add_arguments(found)
    found.add_argument(
        "--max_iterations",
        type=common.positive,
        help="iterations (more of them, when resuming); default: the task's",
    )
    found.add_argument(
        "--budget",
        type=budget,
        metavar="KIND=AMOUNT",
        help="instead of --max_iterations: train until env_steps, wall (seconds) or synops (effective synaptic"
        " operations) are spent; what a resumed run spent before counts",
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
    found.add_argument(
        "--distributed",
        action="store_true",
        help="data-parallel, one process per GPU (or core), started by torchrun",
    )
    found.add_argument(
        "--processes",
        type=up_to(1024),
        metavar="N",
        help="on a CPU of many cores: train data-parallel in N processes, started here, of --num_envs environments each",
    )
    found.add_argument(
        "--resume_optimizer_state",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --checkpoint: restore the optimiser and its learning rate",
    )
    return found


def budget(text: str) -> Budget:
    """A budget, for argparse."""
    try:
        return parse_budget(text, "KIND=AMOUNT")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def train(argv: list[str]) -> int:
    """Train as the arguments say; everything that can be refused is refused before a simulator starts."""
    return begin(parser().parse_intermixed_args(argv), argv)


def begin(args: argparse.Namespace, argv: Sequence[str] = ()) -> int:
    """Train as the arguments say; ``argv``: what they were read from, for processes that train with them."""
    common.setup_logging(args.verbose)
    if args.budget is not None and args.max_iterations is not None:
        raise UserError("--budget and --max_iterations: give one of them")
    if args.rl_library == "skrl":
        unavailable = {
            "--distributed": args.distributed,
            "--processes": args.processes,
            "--logger": args.logger != "tensorboard",
        }
        for flag in (flag for flag, asked in unavailable.items() if asked):
            raise UserError(f"{flag}: not available with --rl_library skrl, only with rsl_rl")
    if args.logger != "tensorboard" and importlib.util.find_spec(args.logger) is None:
        raise UserError(
            f"--logger {args.logger}: it is not installed; install it with: pip install {args.logger}"
        )
    if args.processes and args.distributed:
        raise UserError(
            "--processes and --distributed: give one of them; the first starts what the second takes part in"
        )
    live.require(args)
    plan = common.prepare(args, distributed=args.distributed)
    require_whole_minibatches(plan)
    checkpoint = find_checkpoint(args, plan, goes_on=True) if args.checkpoint else None
    taught_by = teacher.find(args, plan, checkpoint)
    if args.processes:
        if plan.device != "cpu":
            raise UserError(
                f"--processes {args.processes}: is for --device cpu, not {plan.device}; use torchrun"
            )
        processes.start(args.processes, argv)
    if plan.library == "rsl_rl":
        plan.config["logger"] = args.logger
        if args.log_project_name:
            plan.config["wandb_project"] = plan.config["neptune_project"] = args.log_project_name
    folder = make_folder(args, plan) if plan.rank == 0 else None
    with stoppable("stopping once the simulator has started") as asked:
        runner, outcome, activity, returns = run(args, plan, checkpoint, folder, asked, taught_by)
        if folder is not None:
            keep(args, plan, folder, runner, outcome, activity, returns)
    return 1 if outcome.startswith("failed") else asked.exit_code if outcome == "stopped" else 0


def keep(
    args: argparse.Namespace, plan: Plan, folder: Path, runner: Any, outcome: str, seen: Any, returns: Any
) -> None:
    """Write what came of a run, and say it; ``returns``: a student's beside its teacher's, if it had one."""
    from spiky_rl.hosts.common import runs

    try:
        result = runs.write_result(
            folder / "result.json",
            runner.progress,
            task=plan.task,
            agent=plan.agent,
            library=plan.library,
            seed=plan.seed,
            device=plan.device,
            num_envs=plan.num_envs,
            assets=plan.assets,
            physics=plan.physics,
            outcome=outcome,
            spec_hash=plan.spec.digest,
            overrides=args.overrides,
            cost=None if seen is None or seen.cost is None else seen.cost.as_dict(),
            **({"distillation": returns} if returns else {}),
        )
    except OSError:  # the disk is full, still
        log.error("%s", outcome)
        raise
    summarise(result, outcome, args)
    print(folder / "result.json")


def require_whole_minibatches(plan: Plan) -> None:
    """Recurrent rollouts are split by environments: rsl_rl's losses need two in each minibatch, skrl the same number."""
    networks = [network for network in (plan.spec.network, plan.spec.critic_network) if network is not None]
    if plan.library == "skrl":
        from spiky_rl.hosts.skrl.config import carries_state

        recurrent = any(carries_state(n) for n in networks)
    else:
        recurrent = any(n.cls.replayed(n.options) for n in networks)  # type: ignore[attr-defined]
    for role, network in (("actor", plan.spec.network), ("critic", plan.spec.critic_network)):
        recurrent |= network is None and plan.spec.runner[role].get("class_name") == "RNNModel"
    batches = plan.spec.runner["algorithm"]["num_mini_batches"]
    samples = plan.num_envs * plan.setting("num_steps_per_env")
    if samples < batches:
        raise UserError(
            f"agent.algorithm.num_mini_batches: {batches} are more than the {samples} samples of a rollout"
        )
    if recurrent and plan.library == "rsl_rl" and plan.num_envs < 2 * batches:
        raise UserError(
            f"--num_envs {plan.num_envs}: a recurrent agent needs at least {2 * batches}, two per minibatch"
        )
    if recurrent and plan.library == "skrl" and plan.num_envs % batches:
        raise UserError(
            f"--num_envs {plan.num_envs}: a recurrent agent needs a multiple of {batches} with skrl, whose minibatches"
            " are whole rollouts of as many environments each; or set agent.algorithm.num_mini_batches"
        )


def make_folder(args: argparse.Namespace, plan: Plan) -> Path:
    """The run folder, with all that the run is made from."""
    from spiky_rl.hosts.common import runs

    try:
        folder = runs.new_run(
            args.log_root, plan.experiment, args.run_name, plan.task, plan.agent, plan.library, plan.seed
        )
        common.write_params(folder, plan)
    except OSError as error:
        where = error.filename or str(args.log_root)
        raise UserError(f"cannot write runs to {where!r}: {error.strerror}; see --log_root") from None
    log.info(
        "%s on %s, %d environments, %s, seed %d", plan.agent, plan.task, plan.num_envs, plan.device, plan.seed
    )
    log.info("run folder: %s", folder)
    return folder


def run(
    args: argparse.Namespace,
    plan: Plan,
    checkpoint: Path | None,
    folder: Path | None,
    asked: Asked,
    taught_by: Any = None,
) -> tuple[Any, str, Any, dict[str, Any] | None]:
    """Simulate and train; returns the runner, how it ended (``finished``, ``stopped`` or ``failed: why``), the last
    iteration's activity, None before the first, and a finished student's returns beside its teacher's. ``asked``: whether to stop.
    """
    import torch

    from spiky_rl.hosts.common.runner import Stop
    from spiky_rl.hosts.isaaclab.environment import (
        NonFiniteError,
        TimedVecEnv,
        make_deterministic,
        simulation,
        torch_settings,
    )

    iterations, outcome, spent = plan.setting("max_iterations"), "finished", False
    log.info("starting the simulator")
    with (
        torch_settings(plan.device, args.rl_library),
        simulation(
            plan.env_cfg,
            task_id=plan.gym_id,
            device=plan.device,
            num_envs=plan.num_envs,
            seed=plan.seed + plan.rank,
            video=args.video,
            deterministic=args.deterministic,
            distributed=args.distributed and plan.device != "cpu",
            **live.asked(args, plan.rank),
        ) as gym_env,
    ):
        env: Any = TimedVecEnv(gym_env, clip_actions=plan.setting("clip_actions"))
        common.settle(plan, gym_env)
        if args.video and folder is not None:
            from spiky_rl.cli.film import Recorder

            env = Recorder(env, folder / "videos" / "train", args.video_length, args.video_interval)
        env = live.watched(args, env)
        torch.manual_seed(plan.seed + plan.rank)
        runner = common.runner_of(plan)(
            env,
            plan.config,
            str(folder) if folder is not None else None,
            plan.device,
            plan.identity,
            plan.setting("picture_interval"),
            {"specification": common.specification(plan)},
        )
        if args.deterministic:
            make_deterministic(plan.seed + plan.rank)
        if taught_by is not None:
            runner.take_teacher(taught_by)
        if checkpoint is not None:
            fresh = {"actor": True, "critic": True, "optimizer": False, "iteration": True, "rnd": True}
            runner.load(
                str(checkpoint), None if args.resume_optimizer_state else fresh, map_location=plan.device
            )
            log.info(
                "resumed from %s at iteration %d; running %d more",
                checkpoint,
                runner.current_learning_iteration,
                iterations,
            )
        if args.visualizer:
            env.show(runner.played)
        first, share = runner.current_learning_iteration, None
        if args.budget is not None:
            ranks = int(os.environ["WORLD_SIZE"]) if args.distributed else 1
            total = args.budget.iterations(plan.num_envs * plan.setting("num_steps_per_env") * ranks)
            iterations = UNCOUNTED if total is None else total - first
            share = args.budget.share if total is None else None
        best = Best(runner, folder, plan.setting("num_steps_per_env"))
        activity = begun = None
        try:
            asked.message = "stopping after this iteration"
            with Display(f"{plan.agent} on {plan.task}", "iteration", plan.rank == 0) as display:

                def after(iteration: Any) -> None:
                    nonlocal activity, spent, begun
                    activity = iteration.activity
                    if share is None:
                        done = (iteration.index - first + 1) / iterations
                    else:
                        done = min(share(iteration.progress), 1.0)
                        if begun is None:  # a resumed run has used some of its budget already
                            begun = done * (1.0 - 1.0 / len(iteration.progress.steps))
                    show_iteration(display, iteration, first, done, begun)
                    best(iteration)
                    if folder is not None:
                        files.write_json(folder / PROGRESS, heartbeat(iteration, done), durable=False)
                    spent = share is not None and bool(
                        anywhere(share(iteration.progress) >= 1.0, plan.device)
                    )
                    asked.signal = anywhere(asked.signal, plan.device)
                    if spent or asked():
                        raise Stop

                runner.on_iteration = after
                asked.signal = anywhere(asked.signal, plan.device)  # while the simulator started
                if asked():
                    raise Stop
                if iterations > 0:  # a resumed run may have spent its budget already
                    runner.learn(iterations, plan.setting("init_at_random_ep_len"))
        except (Stop, KeyboardInterrupt):
            outcome = "finished" if spent else "stopped"
        except FloatingPointError as error:
            outcome = f"failed: {error}"
        except NonFiniteError as error:  # perhaps the learner's doing
            outcome = f"failed: {error}; {runner.facts()}"
        except OSError as error:
            if error.errno not in files.DISKS:
                raise
            outcome = f"failed: {files.explained(error)}; {runner.kept()}"
        if args.video and folder is not None:
            env.finish()
        returns = None
        if taught_by is not None and folder is not None and outcome == "finished":
            returns = teacher.side_by_side(runner, env, plan)
    return runner, outcome, activity, returns


def heartbeat(iteration: Any, share: float) -> dict[str, Any]:
    """What ``progress.json`` says of a run at work."""
    value = iteration.progress.returns[-1]
    return {
        **{"iteration": iteration.index, "env_steps": iteration.progress.env_steps},
        "share": share,
        "mean_return": None if math.isnan(value) else value,
        "steps_per_second": iteration.steps_per_second,
    }


def anywhere(number: int, device: str) -> int:
    """The largest ``number`` of all processes of a distributed run: what one is asked for, all do after the same iteration."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return number
    import torch

    largest = torch.tensor(float(number), device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def summarise(result: dict[str, Any], outcome: str, args: argparse.Namespace) -> None:
    """The end of a run on the terminal."""
    seconds = result["seconds_total"] or 1.0
    parts = ("simulation", "inference", "learning")
    shares = ", ".join(f"{part} {result[f'seconds_{part}'] / seconds:.0%}" for part in parts)
    keys = ("mean_return_final", "mean_return_best")
    final, best = ("-" if result[key] is None else f"{result[key]:.2f}" for key in keys)
    where = f"--task {args.task} --agent {args.agent} --checkpoint latest"
    where += f" --rl_library {args.rl_library}" if args.rl_library != "rsl_rl" else ""
    where += f" --log_root {args.log_root}" if args.log_root != Path("logs") else ""
    where += f" --tuning {args.tuning}" if args.tuning else ""
    where += f" --experiment_name {args.experiment_name}" if args.experiment_name else ""
    where += "".join(f" {shlex.quote(override)}" for override in args.overrides)
    print(f"\n{result['agent']} on {result['task']}: {outcome}")
    print(f"  done             {result['iterations']} iterations, {result['env_steps']:,} steps")
    print(f"  mean return      {final} over the last 10 iterations, {best} at best")
    if held := result.get("distillation"):
        print(f"  without noise    {held['student_return']:.2f}, its teacher {held['teacher_return']:.2f}")
    if result["firing_rate"]:
        print(f"  firing rate      {result['firing_rate']:.1%} of all inner steps")
    print(f"  operations       {result['synops_per_step']:,.0f} per control step")
    print(f"  time             {seconds:.0f} s: {shares}")
    if result["iterations"]:
        print(f"  play it          python scripts/play.py {where}")
    print(f"  watch it         tensorboard --logdir {args.log_root}")
    if outcome != "finished" and result["iterations"]:
        print(f"  go on            python scripts/train.py {where}")


def main() -> int:
    """Entry point of ``scripts/train.py``."""
    return common.run(train)
