"""Options of the commands that run an environment, and the run plan: a request resolved and checked before a simulator starts."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, override

from pydantic import BeforeValidator

from spiky_rl.config import files
from spiky_rl.config.budget import OptionalBudget
from spiky_rl.config.errors import require_module
from spiky_rl.config.keys import list_keys, suggest_key
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.schema import MAX_INT32
from spiky_rl.config.spec import AgentSpec, TaskSpec, read_algorithm
from spiky_rl.hosts import find_host, get_host, list_hosts
from spiky_rl.hosts.base import RUN_KEYS, ConditionedPolicy, HostTask
from spiky_rl.learners import get_learner, list_learners, select_learner
from spiky_rl.learners.base import DISTRIBUTED, EXPORTS, Learner

if TYPE_CHECKING:
    type Library = str
else:
    Library = Literal[*list_learners()]  # the choices of the flag
RANDOM = "random"
"""Name for random actions in place of a checkpoint or an agent: N(0, 1), as PPO's initial noise; the zero of normalised scores."""
Assets = Literal["auto", "local", "nucleus"]
"""Source of robot assets."""
MAX_VIDEO_FRAMES = 10_000
"""Maximum frames of a video; all frames stay in memory (some 10 GB) until the video is written."""
DEFAULT_VISIBLE_ENVS = 16
"""Number of environments in the live view; thousands are slow to send and to draw."""


def parse_names(value: object) -> object:
    """Split comma-separated names and drop repetitions; ``none`` gives an empty tuple, which turns a task's own visualizers off."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return value
    return () if [*names] == ["none"] else tuple(dict.fromkeys(names))


Visualizers = Annotated[tuple[str, ...] | None, BeforeValidator(parse_names)]
"""Names as for Isaac Lab's ``--visualizer``; None for the task's own."""


class RunRequest(Settings):
    """Options shared by all commands that run an environment; names follow Isaac Lab."""

    task: str = option(
        ...,
        "registered id of Isaac Lab, Gymnasium or mjlab (with or without version), or name of a file in tasks/",
    )
    agent: str = option("lif_ppo", "name of a file in agents/, or path to a YAML file")
    library: Library | None = option(
        None,
        "learning library; null: rsl_rl, or for an agent with another algorithm the library that has it",
        flags=["--rl_library"],
    )
    tuning: Path | None = option(
        None, "tuned values for this agent on this task: the file that spiky tune wrote, or its folder"
    )
    num_envs: int | None = option(
        None,
        "number of parallel environments; null: the task's number for the device",
        low=1,
        high=MAX_INT32,
    )
    seed: int | None = option(
        None,
        "seed of environment and agent, -1 for a random seed; null: the task's, 42",
        low=-1,
        high=MAX_INT32,
    )
    device: str | None = option(
        None, "cpu, cuda or cuda:N, for environment and agent; null: the GPU if there is one"
    )
    checkpoint: str | None = option(
        None,
        "path of a checkpoint or run folder, latest or best of the newest run of this task and agent, or pretrained: the"
        " shipped policy of this task and agent",
    )
    experiment_name: str | None = option(
        None, "name of the task's folder in LOG_ROOT/<library>; null: the host's name for the task"
    )
    assets: Assets = option(
        "auto",
        "source of robot assets: local (derived from Newton), nucleus (the asset server), or auto: nucleus if it answers",
    )
    log_root: Path = option(Path("logs"), "folder of all runs")
    video: bool = option(False, "record videos of the robot, rendered without a display")
    video_length: int = option(300, "length of a video in control steps", low=1, high=MAX_VIDEO_FRAMES)
    deterministic: bool = option(False, "use deterministic kernels")
    distributed: bool = option(
        False, "train data-parallel with one process per GPU (or core), started by torchrun"
    )
    max_iterations: int | None = option(
        None,
        "training iterations; when resuming, additional iterations; null: the task's",
        low=1,
        high=MAX_INT32,
    )
    overrides: tuple[str, ...] = option(
        (),
        "overrides of the agent (agent.x.y=v), the environment (env.x.y=v), physics=NAME, renderer=NAME or presets=NAME",
        flags=["overrides"],
        metavar="key=value",
    )
    spec: AgentSpec | None = option(
        None, "merged agent, as in a study's cell; null: merged when the run is prepared", flags=[]
    )

    @property
    def algorithm(self) -> str:
        """Name of the agent's algorithm."""
        if self.spec is not None:
            return self.spec.algorithm
        return read_algorithm(self.agent, split_overrides(self.overrides)[0])

    @property
    def learner(self) -> Learner:
        """Learner of the agent's algorithm, as named or chosen by `select_learner`."""
        return select_learner(self.library, self.algorithm, self.agent)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split into overrides of the agent and of the environment. Raises UserError for any other text."""
    agent = [text for text in overrides if text.startswith("agent.")]
    environment = [text for text in overrides if re.match(r"(env\.[^=]+|physics|renderer|presets)=", text)]
    for text in overrides:
        if remedy := RUN_KEYS.get(text.partition("=")[0]):
            raise UserError(f"{text!r}: use {remedy}")
        if text not in agent and text not in environment:
            key = text.partition("=")[0]
            # keys of an agent file are written without their prefix on the command line
            hint = f"; did you mean '{key}'?" if key in list_keys() else suggest_key(key, ())
            hint = hint.replace("'", "'agent.", 1)
            allowed = "agent.key=value, env.key=value, physics=NAME, renderer=NAME, presets=NAME"
            raise UserError(f"{text!r} is not an override; allowed: {allowed}{hint}")
    return agent, environment


def list_trusted_packages() -> tuple[str, ...]:
    """Return the packages of hosts and learners, whose classes a file may name because every run imports them."""
    packages = [package for name in list_hosts() for package in get_host(name).code_packages]
    return (*(get_learner(name).module for name in list_learners()), *packages)


@dataclass
class RunPlan:
    """Resolved request of one process: task, agent, library, device and sizes."""

    request: RunRequest
    task: str
    """Registered id, or the name of a task file that changes a registered task."""
    host_task: HostTask
    """The configured task of the host."""
    agent: str
    task_spec: TaskSpec | None
    spec: AgentSpec
    config: dict[str, Any]
    """The runner's configuration."""
    experiment: str
    """Name of the task's folder in logs/<library>."""
    device: str
    num_envs: int
    seed: int
    physics: str
    """Name of the physics backend; once the environment is open, of the backend that really steps the worlds."""
    rank: int = 0
    """Rank of this process in a distributed run; rank 0 writes the run folder."""

    @property
    def process_seed(self) -> int:
        """Seed of this process: that of the run for rank 0, and one that no other run has for any other rank."""
        from spiky_rl.learners.common.processes import derive_seed

        return derive_seed(self.seed, self.rank) if self.rank else self.seed

    @property
    def library(self) -> str:
        """Name of the learner."""
        return self.learner.name

    @property
    def learner(self) -> Learner:
        """Learner of the run."""
        return select_learner(self.request.library, self.spec.algorithm, self.agent)

    @property
    def assets(self) -> str:
        """Source of the robots, in words."""
        return self.host_task.assets

    @property
    def registered(self) -> str:
        """The task with its package, such as ``Isaac-Ant of Isaac Lab 3.0.0``."""
        return self.host_task.description

    @property
    def conditioned_policy(self) -> ConditionedPolicy:
        """Description of the policy for conditions."""
        return ConditionedPolicy(self.task, self.agent, self.spec, self.leg)

    @property
    def leg(self) -> str:
        """Regular expression of the joints of one leg; empty if the task file gives none."""
        return self.task_spec.leg if self.task_spec else ""

    def get_setting(self, key: str) -> Any:
        """Return the agent's setting ``key``, see `AgentSpec.get_setting`."""
        return self.spec.get_setting(key)

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the run in its checkpoints."""
        return {
            "task": self.task,
            "agent": self.agent,
            "seed": self.seed,
            "assets": self.assets,
            "physics": self.physics,
            "spec": self.spec.to_dict(),
        }

    @property
    def description(self) -> dict[str, Any]:
        """Description of the run in its result files."""
        keys = ("task", "registered", "agent", "library", "device", "seed", "assets", "physics")
        return {key: getattr(self, key) for key in keys}


class VisualizerOptions(Settings):
    """Options of the live view, as in Isaac Lab's own commands."""

    visualizer: Visualizers = option(
        None,
        "live view: viser or rerun in a browser, newton_gl in a window; several with commas, or none",
        flags=["--visualizer", "--viz"],
        metavar="NAMES",
    )
    max_visible_envs: int = option(
        DEFAULT_VISIBLE_ENVS, "number of environments in the live view", low=1, high=MAX_INT32
    )

    def check_request(self, request: RunRequest) -> None:
        """Raise UserError for conflicting or unavailable options."""
        for settings in (request, self):
            for key in ("video_length", "video_interval"):
                if key in settings.model_fields_set and not request.video:
                    raise UserError(f"--{key} {getattr(settings, key)}: has no effect without --video")
        if self.visualizer:
            find_host(request.task).check_visualizers(self.visualizer, request.video)


class TrainOptions(VisualizerOptions):
    """Options of spiky train besides `RunRequest`."""

    teacher: str | None = option(
        None,
        "run folder or checkpoint of the teacher, or pretrained:AGENT, for an agent with distillation_cfg",
        metavar="RUN",
    )
    teacher_code: Annotated[tuple[str, ...], BeforeValidator(parse_names)] = option(
        (),
        "code outside the package that the teacher's checkpoint may run: its module:Class or path/file.py:Class names, with"
        " commas",
        metavar="NAMES",
    )
    budget: OptionalBudget = option(
        None,
        "total budget, instead of --max_iterations: env_steps, wall (seconds) or synops (effective synaptic operations);"
        " a resumed run counts its earlier part",
        metavar="KIND=AMOUNT",
    )
    run_name: str = option("", "suffix of the run folder")
    logger: Literal["tensorboard", "wandb", "neptune"] = option(
        "tensorboard", "logger for scalars; neptune: rsl_rl only"
    )
    log_project_name: str = option("spiky_rl", "project of wandb or neptune")
    choose_best: bool = option(
        True, "at the end of a finished training, choose best.pt by a short evaluation without action noise"
    )
    video_interval: int = option(2000, "control steps between videos", low=1, high=MAX_INT32)
    processes: int | None = option(
        None,
        "train data-parallel in N local processes with --num_envs environments each, for a CPU with many cores",
        low=1,
        high=1024,
        metavar="N",
    )
    resume_optimizer_state: bool = option(
        True,
        "with --checkpoint: restore the optimiser's state, and with the adaptive schedule its learning rate",
    )

    @override
    def check_request(self, request: RunRequest) -> None:
        lengths = {"--budget": self.budget, "--max_iterations": request.max_iterations}
        given = [flag for flag, value in lengths.items() if value is not None]
        if request.spec is None:  # a merged agent has its length already
            given += [text for text in request.overrides if text.startswith("agent.max_iterations=")][-1:]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]}: pass only one of them")
        learner = request.learner
        for flag, value in (("--distributed", request.distributed), ("--processes", self.processes)):
            if value:
                learner.require_ability(DISTRIBUTED, flag)
        super().check_request(request)
        if request.checkpoint is None and not self.resume_optimizer_state:
            raise UserError("--no-resume_optimizer_state: has no effect without --checkpoint")
        _check_logger(self, learner)
        if self.processes and request.distributed:
            raise UserError(
                "--processes and --distributed: pass only one of them; --processes starts the processes of a --distributed run itself"
            )
        if self.run_name:
            files.require_plain_name("--run_name", self.run_name)


class EvaluateOptions(Settings):
    """Options of spiky evaluate besides `RunRequest`."""

    episodes: int = option(64, "episodes per condition", low=1, high=MAX_INT32)
    conditions: str = option(
        "all",
        "names with commas, all (the robustness conditions) or stress (all others that task and agent support);"
        " nominal is always included",
    )
    quantize: Literal["int8"] | None = option(
        None, "evaluate the int8 network that `spiky export --to c_int8` writes"
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
        if self.quantize_flag:
            request.learner.require_ability(EXPORTS, self.quantize_flag)
            if request.checkpoint == RANDOM:
                raise UserError(f"{self.quantize_flag}: needs a checkpoint, not --checkpoint {RANDOM}")
        if request.checkpoint == RANDOM and self.out is None:
            raise UserError("--checkpoint random: has no run folder for the result; pass --out FILE")
        if self.out is not None:
            files.require_file("--out", self.out)


class PlayOptions(VisualizerOptions):
    """Options of spiky play besides `RunRequest`."""

    episodes: int = option(10, "episodes to measure", low=1, high=MAX_INT32)
    real_time: bool = option(False, "run at real-time speed, for the live view", flags=["--real-time"])
    export: bool = option(
        False,
        "export TorchScript and ONNX files and verify them against the policy (rsl_rl, TD3 and SAC only)",
    )

    @override
    def check_request(self, request: RunRequest) -> None:
        if self.export:
            request.learner.require_ability(EXPORTS, "--export", request.algorithm)
        super().check_request(request)


def _check_logger(options: TrainOptions, learner: Learner) -> None:
    """Raise UserError if the ``learner`` does not have the logger, its package is not installed, or it has no projects."""
    logger = options.logger
    if logger == "tensorboard" and "log_project_name" in options.model_fields_set:
        raise UserError(
            f"--log_project_name {options.log_project_name}: has no effect with --logger tensorboard; allowed: wandb, neptune"
        )
    if logger not in learner.loggers:
        raise UserError(
            f"--logger {logger}: not available with --rl_library {learner.name}; allowed: {', '.join(learner.loggers)}"
        )
    if logger == "wandb":
        require_module("wandb", "wandb")
    if logger == "neptune" and importlib.util.find_spec("neptune") is None:
        raise UserError("--logger neptune: not installed; install it with: pip install neptune")
