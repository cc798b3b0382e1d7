"""What a user asks of a run, and everything about it that is known, and checked, before a simulator starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spiky_rl.config.budget import Budget
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import AgentSpec, TaskSpec

LIBRARIES = ("rsl_rl", "skrl")
"""Hosts: each a package below `spiky_rl.hosts` with ``config`` and ``runner``."""
RANDOM = "random"
"""In the place of a checkpoint or an agent: actions of N(0, 1), PPO's initial noise, from which normalised scores count."""
VISIBLE = 16
"""Environments that are shown live: a page of thousands is slow to send and to draw."""
FLAGS = {"env.scene.num_envs": "--num_envs", "env.seed": "--seed", "env.sim.device": "--device"}
"""Values of the environment that have a flag, and the flag."""


@dataclass(frozen=True)
class Request:
    """What a user asks of a command that runs an environment; names and meanings are Isaac Lab's."""

    task: str
    """Gym id, with or without its version, or a file stem of tasks/."""
    agent: str = "lif_ppo"
    """File stem of agents/, or a path to a YAML file."""
    library: str = "rsl_rl"
    """The host, one of `LIBRARIES`."""
    tuning: Path | None = None
    """Tuned values: a file of tune.py's, or its folder."""
    num_envs: int | None = None
    """Parallel environments; None: what the task says for the device."""
    seed: int | None = None
    """Seed of environment and agent; -1: a random one, None: Isaac Lab's."""
    device: str | None = None
    """``cpu``, ``cuda`` or ``cuda:N``; None: the GPU if there is one."""
    checkpoint: str | None = None
    """A path, or ``latest`` or ``best`` of the newest run of this task and agent."""
    experiment_name: str | None = None
    """Folder below ``log_root``/``library``; None: Isaac Lab's for the task."""
    assets: str = "auto"
    """Where robots come from: ``auto``, ``local`` or ``nucleus``."""
    log_root: Path = Path("logs")
    """Folder of all runs."""
    video: bool = False
    """Whether the robot is filmed."""
    video_length: int = 300
    """Control steps of a clip."""
    deterministic: bool = False
    """Whether kernels are deterministic where there is a choice."""
    distributed: bool = False
    """Whether this is one of several processes, which torchrun started."""
    max_iterations: int | None = None
    """Iterations of a training; None: as many as the agent says."""
    overrides: Sequence[str] = ()
    """Assignments ``agent.x.y=v``, ``env.x.y=v``, ``physics=NAME`` and ``presets=NAME``."""
    spec: AgentSpec | None = None
    """The agent, where it was merged before, as a study's is; None: it is merged when the run is prepared."""


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The agent's and the environment's overrides. Raises UserError for anything else."""
    agent = [text for text in overrides if text.startswith("agent.")]
    environment = [text for text in overrides if re.match(r"(env\.[^=]+|physics|renderer|presets)=", text)]
    for text in overrides:
        if flag := FLAGS.get(text.partition("=")[0]):
            raise UserError(f"{text!r}: use {flag}")
        if text not in agent and text not in environment:
            raise UserError(
                f"{text!r} is no override; write agent.key=value, env.key=value, physics=NAME or presets=NAME"
            )
    return agent, environment


@dataclass
class Plan:
    """A run of one process: task, agent, host, device and sizes."""

    request: Request
    """What it was made from."""
    task: str
    """Gym id, or the name of the task file that makes another task of it."""
    gym_id: str
    agent: str
    task_spec: TaskSpec | None
    spec: AgentSpec
    config: dict[str, Any]
    """The host's configuration."""
    experiment: str
    """Folder of the task's runs below logs/<library>."""
    env_cfg: Any
    """Isaac Lab's configuration of the environment."""
    device: str
    num_envs: int
    seed: int
    assets: str
    """Where the robots come from, in words."""
    physics: str
    """What steps the worlds; `spiky_rl.hosts.run.simulate.opened` says what really does."""
    rank: int = 0
    """Number of this process among those of a distributed run; 0 keeps the run folder."""

    @property
    def library(self) -> str:
        """The host."""
        return self.request.library

    @property
    def leg(self) -> str:
        """Names of the joints of one leg, as a regular expression; empty: the task file names none."""
        return self.task_spec.leg if self.task_spec else ""

    def setting(self, key: str) -> Any:
        """See `AgentSpec.setting`."""
        return self.spec.setting(key)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        return {
            "task": self.task,
            "agent": self.agent,
            "seed": self.seed,
            "assets": self.assets,
            "physics": self.physics,
            "spec": self.spec.tree(),
        }

    @property
    def description(self) -> dict[str, Any]:
        """What a result file says of the run that it comes from."""
        keys = ("task", "agent", "library", "device", "seed", "assets", "physics")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Training:
    """What a user asks of a training, besides a `Request`."""

    budget: Budget | None = None
    """Ends the run instead of a number of iterations; what a resumed run spent before counts."""
    run_name: str = ""
    """Suffix of the run folder."""
    logger: str = "tensorboard"
    """Where scalars go: ``tensorboard``, ``wandb`` or ``neptune``."""
    log_project_name: str | None = None
    """Project of wandb or neptune."""
    video_interval: int = 2000
    """Control steps from one clip's beginning to the next one's."""
    resume_optimizer_state: bool = True
    """Whether a run that goes on restores the optimiser and its learning rate."""
    teacher: str | None = None
    """Run folder or checkpoint of the policy that a student learns from."""
    visualizer: Sequence[str] | None = None
    """What it is watched with, as Isaac Lab names it; None: as the task has it."""
    max_visible_envs: int = VISIBLE
    """Environments that are shown."""
