"""The plan of a run: the user's request, and everything about it that is known, and checked, before a simulator starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from spiky_rl.config.budget import OptionalBudget
from spiky_rl.config.keys import list_keys, suggest_key
from spiky_rl.config.options import Settings, UserError, option
from spiky_rl.config.schema import MOST_STEPS
from spiky_rl.config.spec import AgentSpec, TaskSpec
from spiky_rl.hosts import get_host, list_hosts
from spiky_rl.hosts.base import ConditionedPolicy, HostTask
from spiky_rl.learners import DEFAULT_LEARNER, get_learner, list_learners

if TYPE_CHECKING:
    from spiky_rl.learners.base import Learner

    type Library = str
else:
    Library = Literal[*list_learners()]
"""Names of learners, which a parser of flags offers as choices."""
RANDOM = "random"
"""In the place of a checkpoint or an agent: actions of N(0, 1), PPO's initial noise, from which normalised scores count."""
Assets = Literal["auto", "local", "nucleus"]
"""Where robots come from."""
MAX_VIDEO_FRAMES = 10_000
"""Longest film, in frames: they are held until it is written, some 10 GB of them."""
DEFAULT_VISIBLE_ENVS = 16
"""Environments that are shown live: a page of thousands is slow to send and to draw."""
FLAG_BY_ENV_KEY = {"env.scene.num_envs": "--num_envs", "env.seed": "--seed", "env.sim.device": "--device"}
"""Values of the environment that have a flag, and the flag."""


def parse_visualizers(value: object) -> object:
    """The names of visualizers that a text lists with commas; ``none`` is an empty list, which also ends a task's own."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        return value
    return () if [*names] == ["none"] else tuple(dict.fromkeys(names))


Visualizers = Annotated[tuple[str, ...] | None, BeforeValidator(parse_visualizers)]
"""Names as Isaac Lab's ``--visualizer`` has them; None: as the task has it."""


class RunRequest(Settings):
    """What a user asks of a command that runs an environment; names and meanings are Isaac Lab's."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    task: str = option(..., "gym id (with or without -v0), or a file stem of tasks/")
    agent: str = option("lif_ppo", "file stem of agents/, or a path to a YAML file")
    library: Library = option(DEFAULT_LEARNER, "library that trains", flags=["--rl_library"])
    tuning: Path | None = option(
        None, "tuned values for the agent on the task: what tune.py wrote, or its folder"
    )
    num_envs: int | None = option(
        None, "parallel environments; null: what the task says for the device", low=1, high=MOST_STEPS
    )
    seed: int | None = option(
        None,
        "seed of environment and agent, -1: a random one; null: Isaac Lab's, 42",
        low=-1,
        high=MOST_STEPS,
    )
    device: str | None = option(
        None, "cpu, cuda or cuda:N, for environment and agent; null: the GPU if there is one"
    )
    checkpoint: str | None = option(
        None, "a path, or latest or best of the newest run of this task and agent"
    )
    experiment_name: str | None = option(None, "folder below logs/<library>; null: Isaac Lab's for the task")
    assets: Assets = option("auto", "where robots come from")
    log_root: Path = option(Path("logs"), "folder of all runs")
    video: bool = option(False, "record the robot, rendered without a display")
    video_length: int = option(300, "control steps per clip", low=1, high=MAX_VIDEO_FRAMES)
    deterministic: bool = option(False, "deterministic kernels where there is a choice")
    distributed: bool = option(False, "data-parallel, one process per GPU (or core), started by torchrun")
    max_iterations: int | None = option(
        None, "iterations (more of them, when resuming); null: the task's", low=1, high=MOST_STEPS
    )
    overrides: tuple[str, ...] = option(
        (), "agent.x.y=v, env.x.y=v, physics=NAME, presets=NAME", flags=["overrides"], metavar="key=value"
    )
    spec: AgentSpec | None = option(
        None,
        "the agent, where it was merged before, as a study's is; null: it is merged when the run is prepared",
        flags=[],
    )


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The agent's and the environment's overrides. Raises UserError for anything else."""
    agent = [text for text in overrides if text.startswith("agent.")]
    environment = [text for text in overrides if re.match(r"(env\.[^=]+|physics|renderer|presets)=", text)]
    for text in overrides:
        if flag := FLAG_BY_ENV_KEY.get(text.partition("=")[0]):
            raise UserError(f"{text!r}: use {flag}")
        if text not in agent and text not in environment:
            key = text.partition("=")[0]
            hint = f"; did you mean '{key}'?" if key in list_keys() else suggest_key(key, ())
            hint = hint.replace("'", "'agent.", 1)
            raise UserError(
                f"{text!r} is no override; write agent.key=value, env.key=value, physics=NAME or presets=NAME{hint}"
            )
    return agent, environment


def list_trusted_packages() -> tuple[str, ...]:
    """Return the packages of hosts and learners, whose classes a file may name because every run imports them."""
    packages = [package for name in list_hosts() for package in get_host(name).code_packages]
    return (*(get_learner(name).module for name in list_learners()), *packages)


@dataclass
class RunPlan:
    """A run of one process: task, agent, host, device and sizes."""

    request: RunRequest
    """What it was made from."""
    task: str
    """Registered id, or the name of the task file that makes another task of it."""
    host_task: HostTask
    """The task of its host, configured."""
    agent: str
    task_spec: TaskSpec | None
    spec: AgentSpec
    config: dict[str, Any]
    """The runner's configuration."""
    experiment: str
    """Folder of the task's runs below logs/<library>."""
    device: str
    num_envs: int
    seed: int
    physics: str
    """Name of the physics backend, or of the one that really steps the worlds once the environment is open."""
    rank: int = 0
    """Number of this process among those of a distributed run; 0 keeps the run folder."""

    @property
    def library(self) -> str:
        """Name of the learner."""
        return self.request.library

    @property
    def learner(self) -> Learner:
        """The library that trains."""
        return get_learner(self.request.library)

    @property
    def assets(self) -> str:
        """Source of the robots, in words."""
        return self.host_task.assets

    @property
    def registered(self) -> str:
        """The task with the package that it comes from, such as ``Isaac-Ant of Isaac Lab 3.0.0``."""
        return self.host_task.description

    @property
    def conditioned_policy(self) -> ConditionedPolicy:
        """What conditions need to know of the policy."""
        return ConditionedPolicy(self.task, self.agent, self.spec, self.leg)

    @property
    def leg(self) -> str:
        """Names of the joints of one leg, as a regular expression; empty: the task file names none."""
        return self.task_spec.leg if self.task_spec else ""

    def get_setting(self, key: str) -> Any:
        """See `AgentSpec.get_setting`."""
        return self.spec.get_setting(key)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the run as its checkpoints carry it."""
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
        """The description of the run in its result files."""
        keys = ("task", "registered", "agent", "library", "device", "seed", "assets", "physics")
        return {key: getattr(self, key) for key in keys}


class VisualizerOptions(Settings):
    """How a run is watched while it goes on, as Isaac Lab's own commands have it."""

    visualizer: Visualizers = option(
        None,
        "watch it live: viser or rerun in a browser, newton_gl in a window; several with commas, or none",
        flags=["--visualizer", "--viz"],
        metavar="NAMES",
    )
    max_visible_envs: int = option(
        DEFAULT_VISIBLE_ENVS, "environments that --visualizer shows", low=1, high=MOST_STEPS
    )


class TrainOptions(VisualizerOptions):
    """What a user asks of a training, besides a `Request`."""

    teacher: str | None = option(
        None,
        "run folder or checkpoint of the trained policy that an agent with distillation_cfg learns from before PPO",
        metavar="RUN",
    )
    teacher_code: Annotated[tuple[str, ...], BeforeValidator(parse_visualizers)] = option(
        (),
        "code outside the package that the teacher's checkpoint may execute, module:Class or path/file.py:Class as it names them",
        metavar="NAMES",
    )
    budget: OptionalBudget = option(
        None,
        "instead of --max_iterations: train until env_steps, wall (seconds) or synops (effective synaptic operations) are"
        " spent; what a resumed run spent before counts",
        metavar="KIND=AMOUNT",
    )
    run_name: str = option("", "suffix of the run folder")
    logger: Literal["tensorboard", "wandb", "neptune"] = option("tensorboard", "where scalars go")
    log_project_name: str | None = option(None, "project of wandb or neptune")
    choose_best: bool = option(
        True, "at the end of a finished training, choose best.pt by a short evaluation without noise"
    )
    video_interval: int = option(2000, "control steps between clips", low=1, high=MOST_STEPS)
    processes: int | None = option(
        None,
        "on a CPU of many cores: train data-parallel in N processes, started here, of --num_envs environments each",
        low=1,
        high=1024,
        metavar="N",
    )
    resume_optimizer_state: bool = option(
        True, "with --checkpoint: restore the optimiser and its learning rate"
    )
