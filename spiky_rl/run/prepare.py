"""From a request to a plan: everything that can be refused is refused before a simulator starts."""

from __future__ import annotations

import importlib
import logging
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiky_rl.config import files, memory_check
from spiky_rl.config.early import check_networks
from spiky_rl.config.optional_dependencies import require_module
from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.config.run_plan import RANDOM, RunPlan, RunRequest, split_overrides
from spiky_rl.config.spec import (
    AgentSpec,
    TaskSpec,
    flatten,
    load_task,
    merge_agent,
    parse_overrides,
    read_agent,
    resolve_agent,
    task_id,
)
from spiky_rl.config.tuned_values import read_tuned
from spiky_rl.hosts.isaaclab.tasks import UnknownTask, require_task
from spiky_rl.learners.common import processes
from spiky_rl.learners.common.checkpoint_names import require_checkpoint

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.conditions import ConditionSubject

log = logging.getLogger(__name__)


def make_plan(request: RunRequest) -> RunPlan:
    """Check a request from the cheapest to the dearest, and merge what it names.

    Args:
        asked: What the user wants.

    Raises:
        UserError: It names the flag or key, the value and what is allowed.
    """
    processes.setup_distributed_env(request.distributed)
    if request.experiment_name:
        files.require_plain_name("--experiment_name", request.experiment_name)
    agent_overrides, env_overrides = split_overrides(request.overrides)
    if request.max_iterations is not None:
        agent_overrides.append(f"agent.max_iterations={request.max_iterations}")
    spec = request.spec
    stem, data, file = read_agent(request.agent) if spec is None else (spec.name, {}, "")
    parse_overrides(agent_overrides)
    files.require_writable("--log_root", request.log_root)
    task_spec = load_task(request.task)
    tuned = None if request.tuning is None or spec is not None else read_tuned(request.tuning)
    if request.checkpoint not in (None, RANDOM):
        require_checkpoint(request.checkpoint)
    check_without_host(request.task, spec or request.agent, agent_overrides, task_spec, tuned is not None)
    require_module("isaaclab", "isaaclab")
    if request.library == "skrl":
        require_module("skrl", "skrl")
    if request.video:
        require_module("av", "video")
        from spiky_rl.hosts.isaaclab.camera import setup_graphics

        setup_graphics()

    from spiky_rl.run.devices import get_memory, resolve_device

    device = resolve_device(request.device, request.distributed)

    from spiky_rl.hosts.isaaclab.assets import configure_assets

    assets = configure_assets(request.assets)

    from spiky_rl.hosts.isaaclab import history
    from spiky_rl.hosts.isaaclab.cfg_checks import check_obs_groups, check_symmetry
    from spiky_rl.hosts.isaaclab.environment import describe_task, require_files, resolve_task
    from spiky_rl.hosts.isaaclab import physics_selection as selection

    gym_id = resolve_task(task_spec.id if task_spec else request.task)
    registered = describe_task(gym_id)
    if request.task.rpartition(":")[2].startswith(f"{gym_id}-v"):
        words = "task: %s is %s; the task of an earlier release under that name may have had other rewards and actions"
        log.info(words, request.task, registered)
    for name in data.get("tasks") or {}:
        try:
            resolve_task(task_id(name))
        except UnknownTask as error:
            if ":" not in name:
                raise UserError(f"{file}: tasks: {error}") from None
            # not this run's task, and its module is perhaps not installed here
            log.warning("%s: tasks: %s", file, error)
    wanted, env_overrides = selection.split_physics_override(env_overrides)
    env_cfg, host = load_host(request.library, gym_id, [*_format_env_overrides(task_spec), *env_overrides])
    require_files(env_cfg)
    label = task_spec.label if task_spec else gym_id
    if spec is None:
        layer = ("", {}) if tuned is None else tuned.get_layer(label, stem)
        spec = resolve_agent(request.agent, gym_id, host, agent_overrides, task_spec, layer)
    groups = spec.runner.get("obs_groups") or {}
    check_obs_groups(env_cfg, groups)
    symmetry = spec.runner["algorithm"].get("symmetry_cfg") or {}
    check_symmetry(env_cfg, symmetry.get("data_augmentation_func"))
    history.set_history_length(env_cfg, spec.runner.get("history", 1), groups)
    config = importlib.import_module(f"spiky_rl.learners.{request.library}.config").make_runner_cfg(spec)
    experiment = request.experiment_name or spec.runner.get("experiment_name", "")
    if experiment:
        files.require_plain_name("agent.experiment_name", experiment)
    if request.library == "rsl_rl":
        config["experiment_name"] = experiment
    seed = host.get("seed", 42) if request.seed is None else request.seed
    seed = random.randrange(10_000) if seed == -1 else seed
    rank = int(os.environ.get("RANK", "0")) if request.distributed else 0
    num_envs = request.num_envs or default_num_envs(task_spec, env_cfg, device)
    memory_check.check_run_memory(spec, num_envs, get_memory(device))
    physics = selection.apply_physics(env_cfg, wanted, device)
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, seed
    return RunPlan(
        request, label, gym_id, stem, task_spec, spec, config, experiment,
        env_cfg, device, num_envs, seed, assets, physics, registered, rank,
    )  # fmt: skip


def known_agent(asked: RunRequest) -> PlainMapping | None:
    """Merge what of a request's agent is known without Isaac Lab, whose own values are left out; None where it was tuned."""
    if asked.spec is not None:
        return asked.spec.to_dict()
    if asked.tuning is not None:  # which values those are depends on the task's registered id
        return None
    task_spec, overrides = load_task(asked.task), split_overrides(asked.overrides)[0]
    task = task_spec.id if task_spec else task_id(asked.task)
    return merge_agent(asked.agent, task, {}, overrides, task_spec)[1]


def check_without_host(
    task: str,
    agent: str | AgentSpec,
    overrides: Sequence[str],
    task_spec: TaskSpec | None,
    is_tuned: bool = False,
) -> None:
    """Refuse what is wrong whatever Isaac Lab says: it is known in a fraction of the time that importing that takes.

    Args:
        task: Gym id, or a file stem of tasks/.
        agent: File stem of agents/ or a path; one that was merged before is taken as it is.
        overrides: Overrides of the agent.
        task_spec: The task's file; None: it has none.
        is_tuned: Whether values of a tuning come in between, which are looked up by the task's registered id.

    Raises:
        UserError: It names the flag or key, the value and the nearest name that is allowed.
    """
    require_task("--task", task)
    if isinstance(agent, AgentSpec):
        return
    _, data, file = read_agent(agent)
    for name in () if ":" in task else data.get("tasks") or ():  # importing that module may register them
        require_task(f"{file}: tasks", name)
    if not is_tuned:
        gym_id = task_spec.id if task_spec else task_id(task)
        check_networks(*merge_agent(agent, gym_id, {}, overrides, task_spec)[1:])


def merge_agent_on_task(
    agent: str, task: str, library: str, overrides: Sequence[str]
) -> tuple[str, AgentSpec]:
    """The gym id of a task, and an agent as it is merged for that.

    Args:
        agent: File stem of agents/, or a path.
        task: Gym id, or a file stem of tasks/.
        library: The host.
        overrides: Overrides of the agent.
    """
    task_spec = load_task(task)
    check_without_host(task, agent, overrides, task_spec)

    from spiky_rl.hosts.isaaclab.environment import resolve_task

    gym_id = resolve_task(task_spec.id if task_spec else task)
    return gym_id, resolve_agent(agent, gym_id, load_host(library, gym_id)[1], overrides, task_spec)


def load_host(library: str, task: str, overrides: list[str] | None = None) -> tuple[Any, dict[str, Any]]:
    """The task's environment, and the PPO configuration that agents change.

    Args:
        library: The host.
        task: Gym id.
        overrides: Overrides of the environment.

    Returns:
        Isaac Lab's configuration of the environment, and as a tree the one of PPO that it registers for the host.

    Raises:
        UserError: It registers none.
    """
    from spiky_rl.hosts.isaaclab.environment import load_configs, silence_isaaclab

    env_cfg, host = load_configs(task, f"{library}_cfg_entry_point", overrides)
    if library == "skrl" and host:
        with silence_isaaclab():
            host = importlib.import_module("spiky_rl.learners.skrl.config").to_rsl_rl_layout(host, task)
    if not host.get("actor"):
        reason = f"Isaac Lab registers no {library} PPO agent for it, on which ours are built"
        raise UserError(f"--task {task}: {reason}")
    return env_cfg, host


def default_num_envs(task_spec: TaskSpec | None, env_cfg: Any, device: str) -> int:
    """As many environments as fit the device: the task file's number, else Isaac Lab's on a GPU and 256 on a CPU.

    Args:
        task_spec: The task file; None: there is none.
        env_cfg: Isaac Lab's configuration of the environment.
        device: ``cpu`` or ``cuda:N``.
    """
    kind = device.partition(":")[0]
    if task_spec is not None:
        return task_spec.num_envs[kind]
    return env_cfg.scene.num_envs if kind == "cuda" else min(256, env_cfg.scene.num_envs)


def make_condition_subject(plan: RunPlan) -> ConditionSubject:
    """The plan's task and agent, as conditions are asked whether they can be had."""
    from spiky_rl.hosts.isaaclab.conditions import ConditionSubject

    model = plan.spec.runner.get("actor", {}).get("class_name", "MLPModel")
    return ConditionSubject(plan.task, plan.env_cfg, plan.leg, plan.spec.network, model, plan.agent)


def write_params(folder: Path, plan: RunPlan) -> None:
    """Write what a run is made from: Isaac Lab's two files, and ours with the origin of every value and the run's provenance.

    Args:
        folder: The run's.
        plan: Its plan.
    """
    from spiky_rl.hosts.isaaclab.environment import write_config
    from spiky_rl.run.provenance import PROVENANCE, read_provenance
    from spiky_rl.run.run_folders import write_spec

    write_spec(folder, plan.spec)
    files.write_json(folder / PROVENANCE, read_provenance(plan.device, plan.physics).model_dump())
    write_config(folder / "params" / "env.yaml", plan.env_cfg)
    write_config(folder / "params" / "agent.yaml", plan.config)


def _format_env_overrides(task_spec: TaskSpec | None) -> list[str]:
    """The task file's environment overrides as Isaac Lab writes them."""
    values = {} if task_spec is None else flatten(task_spec.env)
    return [f"env.{path}={value}" for path, value in values.items()]
