"""``spiky train``: train an agent on a task."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.display import IterationDisplay
from spiky_rl.cli.flags import CHECKPOINT, LOAD_RUN, parse_settings
from spiky_rl.cli.tables import print_facts
from spiky_rl.config.command_line import remove_flag
from spiky_rl.config.progress import format_count
from spiky_rl.config.spec import SpecError, parse_overrides
from spiky_rl.learners import DEFAULT_LEARNER
from spiky_rl.learners.common import processes
from spiky_rl.learners.common.checkpoint_names import list_checkpoints
from spiky_rl.run.command import handle_stop_signals
from spiky_rl.run.policies import resolve_pretrained
from spiky_rl.run.prepare import list_policy_overrides, make_plan
from spiky_rl.run.run_plan import RunPlan, RunRequest, TrainOptions, split_overrides

LOCATING_KEYS = ("agent.experiment_name", "agent.algorithm.class_name")
"""Keys of overrides on which the folder of a run depends."""


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    return common.Parser(
        "train",
        "Train an agent on a task of Isaac Lab, Gymnasium or mjlab.",
        RunRequest,
        TrainOptions,
        verbose=True,
    )


def train(argv: list[str]) -> int:
    """Train an agent; all checks run before a simulator starts."""
    args = build_parser().parse(argv)
    request, options = parse_settings(RunRequest, args), parse_settings(TrainOptions, args)
    common.announce(f"training {request.agent} on {request.task}")
    return run_training(resolve_pretrained(request), options, argv)


def run_training(request: RunRequest, options: TrainOptions, argv: Sequence[str] = ()) -> int:
    """Train an agent and print the outcome; return the exit code. ``argv`` is the command line for further processes."""
    options.check_request(request)
    plan, options = plan_training(request, options)

    from spiky_rl.run.train import create_training_run

    run = create_training_run(plan, options)
    if options.processes:
        # a random seed is drawn and a checkpoint is found here, once for all processes
        chosen = ["--seed", str(plan.seed)] if request.seed == -1 else []
        if request.checkpoint is not None and request.spec is None:
            argv = remove_flag(LOAD_RUN, argv)
            chosen += [CHECKPOINT, str(plan.request.checkpoint)]
        processes.launch_processes(plan.device, options.processes, [*argv, *chosen])
    run.make_folder()
    with handle_stop_signals("stopping once the simulator has started") as stop:
        outcome = run.train(stop, lambda: IterationDisplay(f"{plan.agent} on {plan.task}", plan.rank == 0))
        if run.folder is not None:
            print_summary(run.write_result(outcome), run.plan, options, run.folder)
            print(run.folder / "result.json")
    return stop.get_exit_code(outcome)


def plan_training(request: RunRequest, options: TrainOptions) -> tuple[RunPlan, TrainOptions]:
    """Return the run plan and the options; when resuming, options that are not given come from the resumed run.

    A training from a shipped policy records how the policy's agent differs from the agent's file, so that it can be resumed and played.
    """
    try:
        plan = make_plan(request)
    except SpecError:
        if request.checkpoint is None or request.spec is not None:
            raise
        # an override may be valid only with others that the run recorded: find the run without it
        agent, environment = split_overrides(request.overrides)
        parse_overrides(agent)  # raises if one is invalid on its own
        locating = [text for text in agent if text.partition("=")[0] in LOCATING_KEYS]
        plan = make_plan(request.with_changes(overrides=[*locating, *environment]))
        plan.request = request
    if request.checkpoint is None:
        return plan, options
    if request.spec is not None:  # a study's cells have their own record
        overrides = (*request.overrides, *list_policy_overrides(plan))
        plan.request = request.model_copy(update={"overrides": overrides})
        return plan, options

    from spiky_rl.run import resume

    request, options = resume.restore_settings(plan, options)
    return make_plan(request), options


def print_summary(result: Mapping[str, Any], plan: RunPlan, options: TrainOptions, folder: Path) -> None:
    """Print the outcome of a run, and the commands that play or resume it."""
    from spiky_rl.run.resume import find_named_code

    request, outcome = plan.request, result["outcome"]
    # a resumed run that ends before its first iteration leaves no checkpoint of its own
    checkpoint = folder if list_checkpoints(folder) else request.checkpoint
    checkpoint_arguments = list_checkpoint_arguments(request, checkpoint or folder)
    tuning = ["--tuning", str(request.tuning)] if request.tuning else []
    teacher_code = ["--teacher_code", ",".join(options.teacher_code)] if options.teacher_code else []
    play = shlex.join([*checkpoint_arguments, *tuning, *request.overrides])
    resume = shlex.join([*checkpoint_arguments, *teacher_code, *find_named_code(request.overrides)])
    print_facts(
        f"{result['agent']} on {result['task']}: {outcome}",
        *describe_result(result, plan.spec.network is not None),
        checkpoint is not None and ("play with", f"{common.format_program('play')} {play}"),
        ("TensorBoard", f"tensorboard --logdir {request.log_root}"),
        checkpoint is not None
        and outcome != "finished"
        and ("resume with", f"{common.format_program('train')} {resume}"),
    )


def describe_result(result: Mapping[str, Any], is_spiking: bool) -> Iterator[tuple[str, str]]:
    """Yield name and text of the measurements in a ``result``."""
    yield "completed", f"{format_count(result['iterations'], 'iteration')}, {format_count(result['env_steps'], 'environment step')}"
    keys = ("mean_return_final", "mean_return_best")
    final, best = ("-" if result[key] is None else f"{result[key]:.2f}" for key in keys)
    last = min(result["iterations"], 10)
    span = "iteration" if last == 1 else f"{last} iterations"
    yield "mean return", f"{final} over the last {span}, {best} at best"
    if "max_evaluation" in result:
        last_ten, highest = result["last_ten_evaluations"], result["max_evaluation"]
        last = min(len(result["evaluations"]["mean_return"]), 10)
        yield "evaluations", f"{last_ten:.2f} over the last {last}, {highest:.2f} at best"
    if returns := result.get("distillation"):
        yield "without noise", f"{returns['student_return']:.2f}; its teacher: {returns['teacher_return']:.2f}"
    if choice := result.get("best"):
        yield "best.pt", f"{choice['checkpoint']}, chosen without noise in {choice['seconds']:.0f} s"
    if is_spiking:
        yield "firing rate", f"{result['firing_rate']:.1%} of all inner steps"
    yield "effective ops/step", f"{result['synops_per_step']:,.0f}"
    seconds = result["seconds_total"] or 1.0
    parts = ("simulation", "inference", "learning")
    shares = ", ".join(f"{part} {result[f'seconds_{part}'] / seconds:.0%}" for part in parts)
    yield "time", f"{seconds:.0f} s: {shares}"


def list_checkpoint_arguments(request: RunRequest, checkpoint: Path | str) -> list[str]:
    """Return the arguments that select a ``checkpoint``, or the last one of a run folder, without options that the run records itself."""
    words = ["--task", request.task, "--agent", request.agent, "--checkpoint", str(checkpoint)]
    words += ["--rl_library", request.library] if request.library not in (None, DEFAULT_LEARNER) else []
    words += ["--log_root", str(request.log_root)] if request.log_root != Path("logs") else []
    words += ["--experiment_name", request.experiment_name] if request.experiment_name else []
    return words
