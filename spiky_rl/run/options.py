"""Options of evaluation and playback, and checks for conflicting or unavailable options."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from spiky_rl.config import files
from spiky_rl.config.errors import require_module
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.schema import MOST_STEPS
from spiky_rl.hosts import find_host
from spiky_rl.learners.base import DISTRIBUTED, EXPORTS, Learner
from spiky_rl.run.run_plan import RANDOM, RunRequest, TrainOptions, VisualizerOptions


class EvaluateOptions(Settings):
    """Options of evaluate.py besides `RunRequest`."""

    episodes: int = option(64, "episodes per condition", low=1, high=MOST_STEPS)
    conditions: str = option(
        "all",
        "names with commas, all (the robustness conditions) or stress (all others that task and agent support);"
        " nominal is always included",
    )
    quantize: Literal["int8"] | None = option(
        None, "evaluate the int8 network that `export.py --to c-int8` writes"
    )
    out: Path | None = option(
        None,
        "result file; null: evaluation.json (with --quantize: evaluation_int8.json) beside the checkpoint",
    )

    @property
    def quantize_flag(self) -> str:
        """Flag with its value, for messages; empty if the network is not quantised."""
        return "" if self.quantize is None else f"--quantize {self.quantize}"

    def get_result_path(self, checkpoint: Path | None) -> Path:
        """Return the path of the result file of an evaluation of ``checkpoint``."""
        if self.out is not None:
            return self.out
        assert checkpoint is not None
        return checkpoint.parent / f"evaluation{'' if self.quantize is None else f'_{self.quantize}'}.json"

    def check_request(self, request: RunRequest) -> None:
        """Raise UserError for options that conflict with each other or with the ``request``."""
        if request.num_envs is not None:
            raise UserError(
                f"--num_envs {request.num_envs}: not available; an evaluation has one environment per episode and condition; use"
                " --episodes"
            )
        if request.video:
            raise UserError("--video: not available with evaluate.py; use play.py")
        if self.quantize_flag:
            request.learner.require_ability(EXPORTS, self.quantize_flag)
            if request.checkpoint == RANDOM:
                raise UserError(f"{self.quantize_flag}: needs a checkpoint, not --checkpoint {RANDOM}")
        if request.checkpoint == RANDOM and self.out is None:
            raise UserError("--checkpoint random: has no run folder for the result; pass --out FILE")
        if self.out is not None:
            files.require_file("--out", self.out)


class PlayOptions(VisualizerOptions):
    """Options of play.py besides `RunRequest`."""

    episodes: int = option(10, "episodes to measure", low=1, high=MOST_STEPS)
    real_time: bool = option(False, "run at real-time speed, for the live view", flags=["--real-time"])
    export: bool = option(
        False,
        "export TorchScript and ONNX files and verify them against the policy (rsl_rl, TD3 and SAC only)",
    )

    def check_request(self, request: RunRequest) -> None:
        """Raise UserError for conflicting or unavailable options."""
        if self.export:
            request.learner.require_ability(EXPORTS, "--export", request.algorithm)
        if self.visualizer:
            find_host(request.task).check_visualizers(self.visualizer, request.video)


def check_train_options(request: RunRequest, options: TrainOptions) -> None:
    """Raise UserError for conflicting or unavailable options of a training."""
    if options.budget is not None and request.max_iterations is not None:
        raise UserError("--budget and --max_iterations: pass only one of them")
    learner = request.learner
    if request.distributed:
        learner.require_ability(DISTRIBUTED, "--distributed")
    if options.processes:
        learner.require_ability(DISTRIBUTED, "--processes")
    _check_logger(options.logger, learner)
    if options.processes and request.distributed:
        raise UserError(
            "--processes and --distributed: pass only one of them; --processes starts the processes of a --distributed run itself"
        )
    if options.visualizer:
        find_host(request.task).check_visualizers(options.visualizer, request.video)
    if options.run_name:
        files.require_plain_name("--run_name", options.run_name)


def _check_logger(logger: str, learner: Learner) -> None:
    """Raise UserError if the ``learner`` does not have the ``logger``, or its package is not installed."""
    if logger not in learner.loggers:
        raise UserError(
            f"--logger {logger}: not available with --rl_library {learner.name}; allowed: {', '.join(learner.loggers)}"
        )
    if logger == "wandb":
        require_module("wandb", "wandb")
    if logger == "neptune" and importlib.util.find_spec("neptune") is None:
        raise UserError("--logger neptune: not installed; install it with: pip install neptune")
