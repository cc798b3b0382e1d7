"""Training: from a run plan to a run folder with checkpoints and a result.

`create_training_run` makes the training of a plan, `TrainingRun.train` opens the environments and runs the learner until its
iterations, its budget or a stop request end it, and `TrainingRun.write_result` writes ``result.json``. The same code serves all hosts
and learners.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spiky_rl.config import files
from spiky_rl.config.options import UserError
from spiky_rl.config.progress import format_count
from spiky_rl.config.safe_loading import read_json_record
from spiky_rl.hosts.base import NonFiniteError
from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.learners.common.runner import BaseRunner, IterationSummary, StopTraining
from spiky_rl.learners.common.teacher import Teacher
from spiky_rl.run import periodic_evaluation, policies, resume, run_folders
from spiky_rl.run.best_checkpoint import choose_best_checkpoint
from spiky_rl.run.checkpoint import find_checkpoint
from spiky_rl.run.command import StopRequest
from spiky_rl.run.periodic_evaluation import PeriodicEvaluation
from spiky_rl.run.provenance import PROVENANCE, Provenance, collect_provenance, join_commits
from spiky_rl.run.run_plan import RunPlan, TrainOptions
from spiky_rl.run.simulate import open_env, wrap_for_visualizer
from spiky_rl.run.teacher import compare_with_teacher, find_teacher
from spiky_rl.run.video import VideoRecorder

log = logging.getLogger(__name__)

PROGRESS = "progress.json"
"""File of the progress in a run folder, written after every iteration."""
UNLIMITED_ITERATIONS = 10**15
"""Number of iterations of a run whose budget is wall time or synaptic operations: more than any run can make."""
LOAD_WITHOUT_OPTIMIZER = {"actor": True, "critic": True, "optimizer": False, "iteration": True, "rnd": True}
"""Parts of a checkpoint to load if the optimiser starts anew, in rsl_rl's form."""


@dataclass(frozen=True)
class TrainingStep:
    """A finished iteration and the progress of the training."""

    iteration: IterationSummary
    share: float
    """Completed share of the training, in [0, 1]."""
    initial_share: float | None
    """Share of the budget that was used before this process started; None if the number of iterations is fixed."""


type Display = Callable[[], AbstractContextManager[Callable[[TrainingStep], None]]]
"""Opens the progress display; the context yields a callback for every iteration."""


def require_whole_minibatches(plan: RunPlan) -> None:
    """Raise UserError if rollouts cannot be split into minibatches; the learner checks the split of recurrent agents.

    Only PPO splits rollouts: TD3 and SAC draw their batches from a replay buffer.
    """
    if plan.spec.algorithm != "ppo":
        return
    batches = plan.spec.runner["algorithm"]["num_mini_batches"]
    samples = plan.num_envs * plan.get_setting("num_steps_per_env")
    if samples < batches:
        raise UserError(
            f"agent.algorithm.num_mini_batches: {batches} is more than the {samples} samples of a rollout"
        )
    if samples == 1:
        raise UserError(
            "agent.num_steps_per_env: 1 given with --num_envs 1; allowed: at least 2 of one of them, because advantages are normalised"
            " over a rollout"
        )
    plan.learner.check_minibatches(plan.spec, plan.num_envs, batches)


def create_training_run(plan: RunPlan, options: TrainOptions) -> TrainingRun:
    """Return the training of a ``plan``, with its checkpoint and its teacher if it has them.

    Raises UserError if the checkpoint or the teacher is missing.
    """
    require_whole_minibatches(plan)
    periodic_evaluation.require_available(plan)
    checkpoint = None
    if plan.request.checkpoint:
        checkpoint = find_checkpoint(plan, resume=True)
        resume.require_iterations(plan, options, checkpoint)
    teacher = None
    if options.teacher is not None or plan.spec.runner["algorithm"].get("distillation_cfg"):
        teacher = find_teacher(plan, options, checkpoint)
    plan.config["logger"] = options.logger
    if options.logger != "tensorboard":
        plan.config[f"{options.logger}_project"] = options.log_project_name
    return TrainingRun(plan, options, checkpoint, teacher)


@dataclass
class TrainingRun:
    """A training with its run folder."""

    plan: RunPlan
    options: TrainOptions
    checkpoint: Path | None = None
    """Checkpoint to resume from; None for a new run."""
    teacher: Teacher | None = None
    folder: Path | None = None
    """Run folder; None on ranks above 0 of a distributed run."""
    runner: BaseRunner | None = None
    """None before the simulator has started."""
    activity: PolicyActivity | None = None
    """Activity in the last iteration; None before the first."""
    returns: dict[str, Any] | None = None
    """Returns of the student and its teacher after the training; None without a teacher."""
    best: dict[str, Any] | None = None
    """Choice of the best checkpoint; None if none was made."""
    evaluation: PeriodicEvaluation | None = None
    """Evaluation during the training; None if there is none."""

    def make_folder(self) -> None:
        """Create the run folder with the run's parameters. Raises UserError if it cannot be written."""
        plan = self.plan
        if plan.rank != 0:
            return
        root = plan.request.log_root
        try:
            self.folder = run_folders.create_run_folder(
                root,
                plan.experiment,
                self.options.run_name,
                plan.task,
                plan.agent,
                library=plan.library,
                seed=plan.seed,
            )
            run_folders.write_spec(self.folder, plan.spec)
            files.write_json(self.folder / PROVENANCE, self._collect_provenance())
            origin = self.checkpoint and self.checkpoint.parent / policies.POLICY_FILE
            if origin and origin.is_file():
                files.write_text(self.folder / policies.POLICY_FILE, origin.read_text(encoding="utf-8"))
            plan.host_task.write_params(self.folder / "params", plan.config)
        except OSError as error:
            path = error.filename or str(root)
            raise UserError(f"--log_root {root}: cannot write to {path!r}: {error.strerror}") from None
        log.info(
            "%s on %s, %s, %s, seed %d",
            plan.agent, plan.task, format_count(plan.num_envs, "environment"), plan.device, plan.seed,
        )  # fmt: skip
        log.info("run folder: %s", self.folder)

    def train(self, stop: StopRequest, display: Display) -> str:
        """Simulate and train; return the outcome: ``finished``, ``stopped`` or ``failed: <reason>``."""
        plan, options, request = self.plan, self.options, self.plan.request
        recorder = None
        log.info("starting the simulator")
        with (
            plan.learner.use_torch_settings(plan.device),
            open_env(plan, options) as host_env,
            periodic_evaluation.open_evaluation(plan) as self.evaluation,
        ):
            env: Any = host_env
            if request.video and self.folder is not None:
                folder = self.folder / "videos" / "train"
                env = recorder = VideoRecorder(env, folder, request.video_length, options.video_interval)
            env = wrap_for_visualizer(env, options)
            self.runner = self._make_runner(env)
            if options.visualizer:
                env.set_policy(self.runner.inference_policy)
            outcome = self._learn(self.runner, stop, display)
            if recorder is not None:
                recorder.finish()
            if self.folder is not None and outcome == "finished":
                if self.teacher is not None:
                    with _warn_of_failure("no returns of student and teacher without noise"):
                        self.returns = compare_with_teacher(self.runner, host_env, plan)
                # evaluations of this process have chosen best.pt; earlier ones are of checkpoints in another folder
                if options.choose_best and not (self.evaluation and self.evaluation.has_evaluated):
                    with _warn_of_failure(
                        f"{run_folders.BEST} stays the checkpoint of the highest mean return"
                    ):
                        self.best = choose_best_checkpoint(self.runner, host_env, plan, self.folder, stop)
        return outcome

    def _make_runner(self, env: Any) -> BaseRunner:
        """Return the learner's runner, for a new run or with the checkpoint to resume from."""
        plan, seed = self.plan, self.plan.process_seed
        torch.manual_seed(seed)
        runner_class = plan.learner.get_runner_class(plan.spec.algorithm)
        folder = None if self.folder is None else str(self.folder)
        notes = {"specification": _format_spec_table(plan)}
        runner = runner_class(
            env, plan.config, folder, plan.device, plan.identity, plan.get_setting("picture_interval"), notes
        )
        if plan.request.deterministic:
            env.make_deterministic(seed)
        if self.teacher is not None:
            runner.set_teacher(self.teacher)
        if self.checkpoint is not None:
            load_cfg = None if self.options.resume_optimizer_state else LOAD_WITHOUT_OPTIMIZER
            runner.load(str(self.checkpoint), load_cfg, map_location=plan.device)
            if runner.progress.env_steps:
                env.reseed(seed, runner.progress.env_steps)
            log.info("resumed from %s at iteration %d", self.checkpoint, runner.current_learning_iteration)
        return runner

    def _learn(self, runner: Any, stop: StopRequest, display: Display) -> str:
        """Train until the iterations, the budget or a stop request end the training; return the outcome."""
        plan = self.plan
        callback = _IterationCallback(self, runner, stop)
        if self.folder is not None:
            resume.write_settings(self.folder, plan, self.options, callback.total_iterations)
        if callback.first_iteration and callback.total_iterations is not None:
            log.info("running %d more iterations", max(callback.iterations, 0))
        try:
            stop.message = "stopping after this iteration"
            with display() as callback.show:
                runner.on_iteration = callback
                # a stop request during the simulator's start may have reached one rank only
                if _agree_on_stop(stop, plan.device):
                    raise StopTraining
                if callback.iterations > 0:  # a resumed run may have spent its budget already
                    runner.learn(callback.iterations, plan.get_setting("init_at_random_ep_len"))
        except (StopTraining, KeyboardInterrupt):
            return "finished" if callback.budget_spent else "stopped"
        except (FloatingPointError, NonFiniteError, OSError) as error:
            return f"failed: {_describe_failure(error, runner)}"
        return "finished"

    def write_result(self, outcome: str) -> dict[str, Any]:
        """Write ``result.json`` with the ``outcome`` of `train` into the run folder, and return its content."""
        assert self.folder is not None and self.runner is not None
        plan, activity = self.plan, self.activity
        optional = {"distillation": self.returns, "best": self.best}
        try:
            return run_folders.write_result(
                self.folder / "result.json",
                self.runner.progress,
                **plan.description,
                num_envs=plan.num_envs,
                outcome=outcome,
                spec_hash=plan.spec.digest,
                provenance=self._collect_provenance(),
                overrides=list(plan.request.overrides),
                cost=None if activity is None or activity.cost is None else activity.cost.to_dict(),
                **{key: value for key, value in optional.items() if value},
            )
        except OSError:  # such as a disk that is still full
            log.error("%s", outcome)
            raise

    def _collect_provenance(self) -> dict[str, Any]:
        """Return the provenance of the training as plain data; its commit names those of the run that it resumes, too."""
        provenance = collect_provenance(self.plan.device, self.plan.request.task, self.plan.physics)
        if self.checkpoint is not None and (path := self.checkpoint.parent / PROVENANCE).is_file():
            commits = [read_json_record(path, Provenance).commit, provenance.commit]
            provenance = provenance.model_copy(update={"commit": join_commits(commits)})
        return provenance.model_dump()


@contextmanager
def _warn_of_failure(consequence: str) -> Iterator[None]:
    """Log an error or interrupt in the block with its ``consequence``, and go on: the training is finished."""
    try:
        yield
    except (NonFiniteError, OSError, KeyboardInterrupt) as error:
        log.warning("%s: %s", consequence, str(error) or "stopped")


def _describe_failure(error: Exception, runner: Any) -> str:
    """Return the reason why a training failed, with a hint. Raises ``error`` if it is an OSError of anything but a full or failing disk."""
    if isinstance(error, NonFiniteError):
        hint = runner.describe_weights() if error.blames_policy else runner.describe_last_checkpoint()
        return f"{error}; {hint}"
    if not isinstance(error, OSError):
        return str(error)
    if error.errno not in files.DISK_ERRORS:
        raise error
    return f"{files.format_os_error(error)}; {runner.describe_last_checkpoint()}"


class _IterationCallback:
    """Callback after every iteration: updates the display, saves the best checkpoint, ends the training by budget or stop request.

    Environments start at random points of their episodes, so the first episodes that end are short. If rewards are negative, short
    episodes have the highest returns. So no checkpoint counts as the best before the time of a whole episode has passed.
    """

    show: Callable[[TrainingStep], None]

    def __init__(self, run: TrainingRun, runner: BaseRunner, stop: StopRequest) -> None:
        plan, budget = run.plan, run.options.budget
        self.run, self.runner, self.stop = run, runner, stop
        self.first_iteration: int = runner.current_learning_iteration
        self.iterations: int = plan.get_setting("max_iterations")
        self.budget = None
        """Budget in another unit than iterations or environment steps; None otherwise."""
        self.budget_spent = False
        steps = plan.get_setting("num_steps_per_env")
        if budget is not None:
            ranks = int(os.environ["WORLD_SIZE"]) if plan.request.distributed else 1
            per_iteration = plan.num_envs * steps * ranks
            # a resumed run may have had another number of environments; a library's own checkpoint records no steps
            used = runner.progress.env_steps or self.first_iteration * per_iteration
            remaining = budget.to_iterations(per_iteration, used)
            if remaining is None:
                self.iterations = UNLIMITED_ITERATIONS
                self.budget = budget
            else:
                self.iterations = remaining
        self.initial_share: float | None = None
        self.best_return = float("-inf")
        self.first_whole_episode = self.first_iteration + math.ceil(runner.env.max_episode_length / steps)
        """Iteration from which on whole episodes can end."""

    @property
    def total_iterations(self) -> int | None:
        """Iterations of the whole run, with those before a resume; None if a budget ends it."""
        return self.first_iteration + max(self.iterations, 0) if self.budget is None else None

    def __call__(self, iteration: IterationSummary) -> None:
        """Process an ``iteration``. Raises StopTraining if the training has to end."""
        run, device, progress = self.run, self.run.plan.device, iteration.progress
        run.activity = iteration.activity
        is_best = self._evaluate_policy(iteration)
        used = self._compute_used_share(iteration)
        share = min(used, 1.0)
        if self.budget is not None and self.initial_share is None:
            # what a resumed run had used before this iteration, if all iterations so far used the same
            self.initial_share = share * (1.0 - 1.0 / len(progress.steps))
        self.show(TrainingStep(iteration, share, self.initial_share))
        if run.folder is not None:
            if is_best:
                self.best_return = progress.returns[-1]
                self.runner.save(str(run.folder / run_folders.BEST))
            _write_heartbeat(run.folder, iteration, share)
        self.budget_spent = self.budget is not None and bool(_max_over_ranks(used >= 1.0, device))
        is_stopped = _agree_on_stop(self.stop, device)
        # after the last iteration, the training has finished whatever the request
        if self.budget_spent or (is_stopped and iteration.index < iteration.last):
            raise StopTraining

    def _evaluate_policy(self, iteration: IterationSummary) -> bool:
        """Evaluate the policy if it is time; return whether it is the best so far.

        Evaluations decide that; before the first one, and without any, the mean return in training does.
        """
        progress, evaluation = iteration.progress, self.run.evaluation
        is_whole_episode = iteration.index >= self.first_whole_episode
        has_best_return = is_whole_episode and progress.returns[-1] > self.best_return
        if evaluation is None:
            return has_best_return
        is_best = evaluation(self.runner)
        return is_best or (has_best_return and not evaluation.has_evaluated)

    def _compute_used_share(self, iteration: IterationSummary) -> float:
        """Return the share of the iterations, or of the budget, that is used after an ``iteration``; a budget may be exceeded."""
        if self.budget is None:
            return (iteration.index - self.first_iteration + 1) / self.iterations
        progress = iteration.progress
        return self.budget.compute_share(
            progress.env_steps, progress.seconds_total, progress.total_operations
        )


def _write_heartbeat(folder: Path, iteration: IterationSummary, share: float) -> None:
    """Write the progress of a training, with its completed ``share``, for a study that watches it."""
    mean_return = iteration.progress.returns[-1]
    heartbeat = {
        "iteration": iteration.index,
        "env_steps": iteration.progress.env_steps,
        "share": share,
        "mean_return": None if math.isnan(mean_return) else mean_return,
        "steps_per_second": iteration.steps_per_second,
    }
    files.write_json(folder / PROGRESS, heartbeat, durable=False)


def _agree_on_stop(stop: StopRequest, device: str) -> bool:
    """Return whether a stop request has reached any rank, the same on all ranks; then all ranks have it.

    A request that arrives meanwhile counts in the next call.
    """
    signal = _max_over_ranks(stop.signal, device)
    if signal:
        stop.signal = signal
    return bool(signal)


def _max_over_ranks(number: int, device: str) -> int:
    """Return the largest ``number`` of all ranks of a distributed run, so that all stop after the same iteration."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    largest = torch.tensor(float(number), device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def _format_spec_table(plan: RunPlan) -> str:
    """Return the merged specification as a Markdown table."""
    rows = (f"| {path} | {value} | {origin} |" for path, value, origin in plan.spec.list_values())
    return "\n".join(["| key | value | origin |", "| --- | --- | --- |", *rows])
