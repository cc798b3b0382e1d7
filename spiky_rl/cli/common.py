"""What the commands share: arguments, checks that need no simulator, one line per error."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from spiky_rl.cli import running
from spiky_rl.config import files, sizes
from spiky_rl.config.arguments import positive, seed_number, up_to
from spiky_rl.config.extras import require
from spiky_rl.config.plan import Plan
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import (
    AgentSpec,
    TaskSpec,
    flatten,
    load_task,
    parse_overrides,
    read_agent,
    resolve_agent,
    task_id,
)
from spiky_rl.config.tuned import read_tuned
from spiky_rl.hosts.common import processes

log = logging.getLogger("spiky_rl")
run = running.run

MOST_FRAMES = 10_000
"""Longest film, in frames: they are held until it is written, some 10 GB of them."""
FLAGS = {"env.scene.num_envs": "--num_envs", "env.seed": "--seed", "env.sim.device": "--device"}
"""Values of the environment that have a flag, and the flag."""


LIBRARIES = ("rsl_rl", "skrl")
"""Hosts: each a package below `spiky_rl.hosts` with ``config`` and ``runner``."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says what a flag is where it is not given, unless that is nothing, or the flag is a switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Exit code 2 and one line for a bad command line; prefixes of flags are not accepted."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Help, **kwargs)

    def namespace(self, **given: Any) -> argparse.Namespace:
        """Arguments from a program, by name and with their types; the others have their defaults."""
        known = {
            a.dest: a.default for a in self._actions if a.default is not argparse.SUPPRESS
        } | self._defaults
        assert given.keys() <= known.keys(), given.keys() - known.keys()
        return argparse.Namespace(**{**known, **given})

    def error(self, message: str) -> Any:
        """Name the problem, with the nearest flag where one is unknown."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = message.partition("unrecognized arguments: ")[2].split()
        hint = next((nearest_flag(flag, flags) for flag in unknown if flag.startswith("-")), "")
        sys.stderr.write(f"{self.prog}: error: {' '.join(message.splitlines())}{hint}\n")
        raise SystemExit(2)


def nearest_flag(flag: str, flags: Sequence[str]) -> str:
    """``; did you mean ...?`` for an unknown flag."""
    from spiky_rl.config.registry import nearest

    return nearest(flag, flags)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that runs an environment; names and meanings are Isaac Lab's."""
    parser.add_argument(
        "--task", required=True, help="gym id (with or without -v0), or a file stem of tasks/"
    )
    parser.add_argument("--agent", default="lif_ppo", help="file stem of agents/, or a path to a YAML file")
    parser.add_argument(
        "--tuning",
        type=Path,
        help="tuned values for the agent on the task: what tune.py wrote, or its folder",
    )
    parser.add_argument(
        "--num_envs", type=positive, help="parallel environments; default: what the task says for the device"
    )
    parser.add_argument(
        "--seed",
        type=seed_number,
        help="seed of environment and agent, -1: a random one; default: Isaac Lab's, 42",
    )
    parser.add_argument(
        "--device", help="cpu, cuda or cuda:N, for environment and agent; default: the GPU if there is one"
    )
    parser.add_argument(
        "--checkpoint", help="a path, or latest or best of the newest run of this task and agent"
    )
    parser.add_argument(
        "--experiment_name", help="folder below logs/<library>; default: Isaac Lab's for the task"
    )
    parser.add_argument("--rl_library", default="rsl_rl", choices=LIBRARIES, help="host library")
    parser.add_argument(
        "--assets", default="auto", choices=["auto", "local", "nucleus"], help="where robots come from"
    )
    parser.add_argument("--log_root", type=Path, default=Path("logs"), help="folder of all runs")
    parser.add_argument("--video", action="store_true", help="record the robot, rendered without a display")
    parser.add_argument("--video_length", type=up_to(MOST_FRAMES), default=300, help="control steps per clip")
    parser.add_argument(
        "--deterministic", action="store_true", help="deterministic kernels where there is a choice"
    )
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own messages")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="agent.x.y=v, env.x.y=v, physics=NAME, presets=NAME"
    )
    parser.set_defaults(spec=None)


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(agent's, environment's) overrides. Raises UserError for anything else."""
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


def setup_logging(verbose: bool) -> None:
    """Our messages on the terminal; the libraries' only when asked for."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def prepare(args: argparse.Namespace, distributed: bool = False) -> Plan:
    """Check the arguments from the cheapest to the dearest, and merge what they name. Raises UserError.

    ``args.spec`` is an agent that was merged before, a study's; None: it is merged here.
    """
    processes.settle(distributed)
    for flag in ("experiment_name", "run_name"):
        if name := getattr(args, flag, None):
            files.require_plain_name(f"--{flag}", name)
    agent_overrides, env_overrides = split_overrides(args.overrides)
    if getattr(args, "max_iterations", None) is not None:
        agent_overrides.append(f"agent.max_iterations={args.max_iterations}")
    spec: AgentSpec | None = args.spec
    stem, data, file = read_agent(args.agent) if spec is None else (spec.name, {}, "")
    parse_overrides(agent_overrides)
    files.require_writable("--log_root", args.log_root)
    task_spec = load_task(args.task)
    tuned = None if args.tuning is None or spec is not None else read_tuned(args.tuning)
    require("isaaclab", "isaaclab")
    if args.rl_library == "skrl":
        require("skrl", "skrl")
    if args.video:
        require("av", "video")
        from spiky_rl.hosts.isaaclab.camera import require_graphics

        require_graphics()

    from spiky_rl.hosts.common.devices import check_device, memory_of
    from spiky_rl.hosts.isaaclab.assets import configure_assets

    device = check_device(args.device, distributed)
    assets = configure_assets(args.assets)

    from spiky_rl.hosts.isaaclab import history
    from spiky_rl.hosts.isaaclab.environment import require_files, resolve_task
    from spiky_rl.hosts.isaaclab.limits import check_groups
    from spiky_rl.hosts.isaaclab.mujoco import choice

    task = resolve_task(task_spec.id if task_spec else args.task)
    for name in data.get("tasks") or {}:
        try:
            resolve_task(task_id(name))
        except UserError as error:
            # not this run's task, and perhaps one of a package that is not installed here
            log.warning("%s: tasks: %s", file, error)
    library = args.rl_library
    configuration = importlib.import_module(f"spiky_rl.hosts.{library}.config")
    wanted, env_overrides = choice.split(env_overrides)
    env_cfg, host = load_host(library, task, [*_env_of(task_spec), *env_overrides])
    require_files(env_cfg)
    label = task_spec.label if task_spec else task
    if spec is None:
        layer = ("", {}) if tuned is None else tuned.layer(label, stem)
        spec = resolve_agent(args.agent, task, host, agent_overrides, task_spec, layer)
    check_groups(env_cfg, spec.runner.get("obs_groups") or {})
    history.lengthen(env_cfg, spec.runner.get("history", 1), spec.runner.get("obs_groups") or {})
    config = configuration.runner_config(spec)
    experiment = args.experiment_name or spec.runner.get("experiment_name", "")
    if experiment:
        files.require_plain_name("agent.experiment_name", experiment)
    if library == "rsl_rl":
        config["experiment_name"] = experiment
    seed = host.get("seed", 42) if args.seed is None else args.seed
    seed = random.randrange(10_000) if seed == -1 else seed
    rank = int(os.environ.get("RANK", "0")) if distributed else 0
    num_envs = args.num_envs or default_num_envs(task_spec, env_cfg, device)
    sizes.check(spec, num_envs, memory_of(device))
    physics = choice.apply(env_cfg, wanted, device)
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, seed
    return Plan(
        label, task, stem, task_spec, spec, library, config, experiment,
        env_cfg, device, num_envs, seed, assets, physics, rank,
    )  # fmt: skip


def runner_of(plan: Plan) -> Any:
    """The class of the host's runner."""
    return importlib.import_module(f"spiky_rl.hosts.{plan.library}.runner").Runner


def settle(plan: Plan, gym_env: Any) -> None:
    """Let the plan of an environment that has been reset name the physics that its model really gets, and say it.

    gym_env: As `simulation` yields it.
    """
    from spiky_rl.hosts.isaaclab.mujoco import choice

    plan.physics = choice.settled(gym_env, plan.physics)
    if plan.rank == 0:
        log.info("robots: %s; physics: %s", plan.assets, plan.physics)


def subject_of(plan: Plan) -> Any:
    """The plan's task and agent, as conditions are asked whether they can be had."""
    from spiky_rl.hosts.isaaclab.conditions import Subject

    leg = plan.task_spec.leg if plan.task_spec else ""
    model = plan.spec.runner.get("actor", {}).get("class_name", "MLPModel")
    return Subject(plan.task, plan.env_cfg, leg, plan.spec.network, model)


def load_host(library: str, task: str, overrides: list[str] | None = None) -> tuple[Any, dict[str, Any]]:
    """The task's environment config, and Isaac Lab's PPO configuration of ``library`` for it as the tree that agents change."""
    from spiky_rl.hosts.isaaclab.environment import load_configs, quiet

    env_cfg, host = load_configs(task, f"{library}_cfg_entry_point", overrides)
    if library == "skrl" and host:
        with quiet():
            host = importlib.import_module("spiky_rl.hosts.skrl.config").host_tree(host, task)
    if not host.get("actor"):
        reason = f"Isaac Lab registers no {library} PPO agent for it, on which ours are built"
        raise UserError(f"--task {task}: {reason}")
    return env_cfg, host


def default_num_envs(task_spec: TaskSpec | None, env_cfg: Any, device: str) -> int:
    """As many environments as fit the device: the task file's number, else Isaac Lab's on a GPU and 256 on a CPU."""
    kind = device.partition(":")[0]
    if task_spec is not None:
        return task_spec.num_envs[kind]
    return env_cfg.scene.num_envs if kind == "cuda" else min(256, env_cfg.scene.num_envs)


def write_params(folder: Path, plan: Plan) -> None:
    """What the run was made from: Isaac Lab's two files, and ours with the origin of every value."""
    from spiky_rl.hosts.isaaclab.environment import write_config

    (folder / "params").mkdir(exist_ok=True)
    write_config(folder / "params" / "env.yaml", plan.env_cfg)
    write_config(folder / "params" / "agent.yaml", plan.config)
    rows = {path: {"value": value, "origin": origin} for path, value, origin in plan.spec.rows()}
    text = yaml.safe_dump(rows, sort_keys=False)
    files.write(folder / "params" / "spec.yaml", lambda beside: beside.write_text(text, encoding="utf-8"))


def specification(plan: Plan) -> str:
    """The merged specification as a table in Markdown."""
    rows = (f"| {path} | {value} | {origin} |" for path, value, origin in plan.spec.rows())
    return "\n".join(["| key | value | origin |", "| --- | --- | --- |", *rows])


def _env_of(task_spec: TaskSpec | None) -> list[str]:
    """The task file's environment overrides as Isaac Lab writes them."""
    values = {} if task_spec is None else flatten(task_spec.env)
    return [f"env.{path}={value}" for path, value in values.items()]
