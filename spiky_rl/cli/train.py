"""``train.py``: train an agent on an Isaac Lab task."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.display import Display, show_iteration
from spiky_rl.cli.tables import print_facts
from spiky_rl.config import budget as budgets
from spiky_rl.config import files
from spiky_rl.config.arguments import positive, up_to
from spiky_rl.config.options import UserError
from spiky_rl.config.plan import Plan, Request, Training
from spiky_rl.hosts.common import processes
from spiky_rl.hosts.common.stopping import stoppable
from spiky_rl.hosts.isaaclab.live import names
from spiky_rl.hosts.run.prepare import prepare


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser("train.py", "Train an agent on an Isaac Lab task.")
    common.add_run_arguments(found)
    common.add_live_arguments(found)
    add = found.add_argument
    add(
        "--teacher",
        metavar="RUN",
        help="run folder or checkpoint of the trained policy that an agent with distillation_cfg learns from before PPO",
    )
    add(
        "--max_iterations",
        type=positive,
        help="iterations (more of them, when resuming); default: the task's",
    )
    add(
        "--budget",
        type=budget,
        metavar="KIND=AMOUNT",
        help="instead of --max_iterations: train until env_steps, wall (seconds) or synops (effective synaptic"
        " operations) are spent; what a resumed run spent before counts",
    )
    add("--run_name", default=Training.run_name, help="suffix of the run folder")
    add(
        "--logger",
        default=Training.logger,
        choices=["tensorboard", "wandb", "neptune"],
        help="where scalars go",
    )
    add("--log_project_name", help="project of wandb or neptune")
    add(
        "--video_interval", type=positive, default=Training.video_interval, help="control steps between clips"
    )
    add(
        "--distributed",
        action="store_true",
        help="data-parallel, one process per GPU (or core), started by torchrun",
    )
    add(
        "--processes",
        type=up_to(1024),
        metavar="N",
        help="on a CPU of many cores: train data-parallel in N processes, started here, of --num_envs environments each",
    )
    add(
        "--resume_optimizer_state",
        action=argparse.BooleanOptionalAction,
        default=Training.resume_optimizer_state,
        help="with --checkpoint: restore the optimiser and its learning rate",
    )
    return found


def budget(text: str) -> budgets.Budget:
    """A budget, for argparse."""
    try:
        return budgets.parse(text, "KIND=AMOUNT")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def train(argv: list[str]) -> int:
    """Train as the arguments say; everything that can be refused is refused before a simulator starts."""
    args = parser().parse_intermixed_args(argv)
    common.setup_logging(args.verbose)
    return begin(common.request(args), common.picked(Training, args), args.processes, argv)


def begin(asked: Request, options: Training, count: int | None = None, argv: Sequence[str] = ()) -> int:
    """Train; returns the exit code.

    Args:
        asked: What is trained.
        options: How.
        count: Processes to start for it, of the arguments ``argv``; None: this one trains.
        argv: What was parsed.
    """
    check(asked, options, count)
    plan = prepare(asked)

    from spiky_rl.hosts.run import training

    run = training.begin(plan, options)
    if count:
        if plan.device != "cpu":
            raise UserError(f"--processes {count}: is for --device cpu, not {plan.device}; use torchrun")
        processes.start(count, argv)
    run.make_folder()
    with stoppable("stopping once the simulator has started") as stop:
        outcome = run.train(stop, lambda: displayed(plan))
        if run.folder is not None:
            summarise(run.keep(outcome), asked)
            print(run.folder / "result.json")
    return stop.code_after(outcome)


def check(asked: Request, options: Training, count: int | None) -> None:
    """Raise UserError for what does not go together, or cannot be had here."""
    if options.budget is not None and asked.max_iterations is not None:
        raise UserError("--budget and --max_iterations: give one of them")
    if asked.library == "skrl":
        unavailable = {
            "--distributed": asked.distributed,
            "--processes": count,
            "--logger": options.logger != "tensorboard",
        }
        for flag in (flag for flag, given in unavailable.items() if given):
            raise UserError(f"{flag}: not available with --rl_library skrl, only with rsl_rl")
    if options.logger != "tensorboard" and importlib.util.find_spec(options.logger) is None:
        raise UserError(
            f"--logger {options.logger}: it is not installed; install it with: pip install {options.logger}"
        )
    if count and asked.distributed:
        raise UserError(
            "--processes and --distributed: give one of them; the first starts what the second takes part in"
        )
    names.require(list(options.visualizer or ()), asked.video)
    if options.run_name:
        files.require_plain_name("--run_name", options.run_name)


@contextmanager
def displayed(plan: Plan) -> Iterator[Any]:
    """The training's display: what it gives takes every iteration."""
    with Display(f"{plan.agent} on {plan.task}", "iteration", plan.rank == 0) as display:
        yield lambda step: show_iteration(display, step)


def summarise(result: Mapping[str, Any], asked: Request) -> None:
    """The end of a run on the terminal."""
    seconds, outcome = result["seconds_total"] or 1.0, result["outcome"]
    parts = ("simulation", "inference", "learning")
    shares = ", ".join(f"{part} {result[f'seconds_{part}'] / seconds:.0%}" for part in parts)
    keys = ("mean_return_final", "mean_return_best")
    final, best = ("-" if result[key] is None else f"{result[key]:.2f}" for key in keys)
    held, there = result.get("distillation"), bool(result["iterations"])
    where = go_on(asked)
    print_facts(
        f"{result['agent']} on {result['task']}: {outcome}",
        ("done", f"{result['iterations']} iterations, {result['env_steps']:,} steps"),
        ("mean return", f"{final} over the last 10 iterations, {best} at best"),
        held is not None
        and ("without noise", f"{held['student_return']:.2f}, its teacher {held['teacher_return']:.2f}"),
        bool(result["firing_rate"]) and ("firing rate", f"{result['firing_rate']:.1%} of all inner steps"),
        ("operations", f"{result['synops_per_step']:,.0f} per control step"),
        ("time", f"{seconds:.0f} s: {shares}"),
        there and ("play it", f"python scripts/play.py {where}"),
        ("watch it", f"tensorboard --logdir {asked.log_root}"),
        there and outcome != "finished" and ("go on", f"python scripts/train.py {where}"),
    )


def go_on(asked: Request) -> str:
    """The arguments of a command that takes the checkpoint of a run."""
    words = f"--task {asked.task} --agent {asked.agent} --checkpoint latest"
    words += f" --rl_library {asked.library}" if asked.library != "rsl_rl" else ""
    words += f" --log_root {asked.log_root}" if asked.log_root != Path("logs") else ""
    words += f" --tuning {asked.tuning}" if asked.tuning else ""
    words += f" --experiment_name {asked.experiment_name}" if asked.experiment_name else ""
    return words + "".join(f" {shlex.quote(override)}" for override in asked.overrides)


def main() -> int:
    """Entry point of ``scripts/train.py``."""
    return common.run(train)
