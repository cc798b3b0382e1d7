"""From a request to a run plan, with all checks that are possible before a simulator starts.

`make_plan` merges the registered configuration of the task, the files of task and agent, tuned values and the command line, in this
order; later values win. The checks that need no simulator run first, because its import takes ten seconds.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from spiky_rl.config import files, memory_check
from spiky_rl.config.early import check_networks
from spiky_rl.config.options import UserError
from spiky_rl.config.plain_data import PlainMapping, format_override
from spiky_rl.config.schema import OFF_POLICY
from spiky_rl.config.spec import (
    AgentSpec,
    TaskSpec,
    flatten,
    load_task,
    merge_agent,
    parse_overrides,
    read_agent,
    read_algorithm,
    resolve_agent,
    get_task_id,
)
from spiky_rl.config.tuned_values import TunedValuesFile, read_tuned
from spiky_rl.hosts import find_host, get_host, list_hosts
from spiky_rl.hosts.base import VIDEO, Host, HostTask, TaskRequest, UnknownTask
from spiky_rl.learners import require_algorithm, select_learner
from spiky_rl.learners.common import processes
from spiky_rl.learners.common.checkpoint_names import require_checkpoint
from spiky_rl.run import policies
from spiky_rl.run.run_plan import RANDOM, RunPlan, RunRequest, split_overrides

DEFAULT_SEED = 42
"""Seed of a run if neither the command line nor the task gives one."""
RANDOM_SEEDS = 10_000
"""A random seed (``--seed -1``) is below this number."""

log = logging.getLogger(__name__)


def make_plan(request: RunRequest) -> RunPlan:
    """Return the run plan of a ``request``; the cheapest checks come first.

    Raises UserError that names the flag or key, the value and the allowed values.
    """
    processes.setup_distributed_env(request.distributed)
    overrides, env_overrides = split_overrides(request.overrides)
    if request.max_iterations is not None:
        overrides.append(f"agent.max_iterations={request.max_iterations}")
    tuned = _check_files(request, overrides)
    task_spec, host, learner = load_task(request.task), find_host(request.task), request.learner
    if request.spec is None:
        is_tuned = tuned is not None
        check_without_simulator(host, request.task, request.agent, overrides, task_spec, is_tuned)
    if request.video:
        host.require_ability(VIDEO, "--video")
    host.require_installed(request.video)
    learner.require_installed()

    from spiky_rl.run.devices import get_memory, resolve_device

    device = resolve_device(request.device, request.distributed)
    assets = host.configure_assets(request.assets)
    registered_id = host.resolve_task(get_task_id(request.task))
    host_task = host.load_task(TaskRequest(registered_id, learner, task_spec, env_overrides, assets))
    if request.video:
        host_task.require_video()
    if request.task.rpartition(":")[2].startswith(f"{registered_id}-v"):
        log_changed_meaning(request.task, host_task.description)
    label = task_spec.label if task_spec else registered_id
    spec = request.spec or _merge_agent(request, host, host_task, overrides, task_spec, tuned)
    # the task's defaults or tuned values may have changed the algorithm for which the learner was chosen
    require_algorithm(learner, spec.algorithm, request.agent)
    host_task.adapt_to_agent(spec)
    config = learner.make_runner_cfg(spec)
    experiment = _set_experiment(config, request.experiment_name or spec.runner.get("experiment_name", ""))
    seed = _choose_seed(request, host_task)
    num_envs = request.num_envs or choose_num_envs(task_spec, host_task, device, spec.algorithm)
    memory_check.check_run_memory(spec, num_envs, get_memory(device))
    host_task.configure(device, num_envs, seed)
    return RunPlan(
        request=request,
        task=label,
        host_task=host_task,
        agent=spec.name,
        task_spec=task_spec,
        spec=spec,
        config=config,
        experiment=experiment,
        device=device,
        num_envs=num_envs,
        seed=seed,
        physics=host_task.physics,
        rank=int(os.environ.get("RANK", "0")) if request.distributed else 0,
    )


def list_policy_overrides(plan: RunPlan) -> list[str]:
    """Return the overrides of the agent's file that give the agent of a shipped policy; empty for an agent from elsewhere.

    The training of a ``plan`` that begins with ``--checkpoint pretrained`` has the policy's agent, which may have been tuned. Later commands
    on its run merge the agent from its file.
    """
    if not any(origin.startswith(f"{policies.KIND}/") for origin in plan.spec.origins.values()):
        return []
    request, host = plan.request, find_host(plan.request.task)
    overrides = split_overrides(request.overrides)[0]
    try:
        from_file = _merge_agent(request, host, plan.host_task, overrides, plan.task_spec, None)
    except UserError as error:  # the agent's file is missing, or has another network now
        log.warning("--checkpoint %s: the run cannot be resumed: %s", policies.PRETRAINED, error)
        return []
    own_values, file_values = flatten(plan.spec.to_dict()), flatten(from_file.to_dict())
    return [
        format_override(f"agent.{key}", value)
        for key, value in own_values.items()
        if key != "max_iterations" and (key not in file_values or file_values[key] != value)
    ]


def _check_files(request: RunRequest, overrides: Sequence[str]) -> TunedValuesFile | None:
    """Check the files of a request, and the agent's ``overrides``, without importing anything; return the tuned values.

    If the request has a merged agent, its tuned values are not read again.
    """
    if request.experiment_name:
        files.require_plain_name("--experiment_name", request.experiment_name)
    parse_overrides(overrides)
    files.require_writable("--log_root", request.log_root)
    tuned = None if request.tuning is None or request.spec is not None else read_tuned(request.tuning)
    if request.checkpoint not in (None, RANDOM):
        require_checkpoint(request.checkpoint)
    return tuned


def _merge_agent(
    request: RunRequest,
    host: Host,
    host_task: HostTask,
    overrides: Sequence[str],
    task_spec: TaskSpec | None,
    tuned: TunedValuesFile | None,
) -> AgentSpec:
    """Return the agent of a request, merged for its task with all layers."""
    name, values, file = read_agent(request.agent)
    _check_agent_tasks(host, list_task_overrides(values), file)
    label = task_spec.label if task_spec else host_task.id
    tuned_layer = ("", {}) if tuned is None else tuned.get_layer(label, name)
    return resolve_agent(
        request.agent, host_task.id, host_task.agent_defaults, overrides, task_spec, tuned_layer, host.title
    )


@cache
def log_changed_meaning(name: str, described: str) -> None:
    """Log, once for each name, that an old id with a version, such as Isaac-Ant-v0, now stands for the ``described`` task."""
    log.info(
        "task: %s now means %s; earlier releases may have used other rewards and actions under that name",
        name,
        described,
    )


def _set_experiment(config: dict[str, Any], name: str) -> str:
    """Write ``name`` into ``config["experiment_name"]`` if that key exists; return ``name``.

    Raises UserError if ``name`` contains a path separator.
    """
    if name:
        files.require_plain_name("agent.experiment_name", name)
    if "experiment_name" in config:
        config["experiment_name"] = name
    return name


def _check_agent_tasks(host: Host, names: Iterable[str], file: str) -> None:
    """Check the tasks for which an agent's ``file`` has settings.

    Raises UserError for an unknown task; an unknown task of another package (``package:Task``) only causes a warning.
    """
    for name in names:
        try:
            if find_host(name, "task") is host:  # other simulators are not imported for this
                host.resolve_task(get_task_id(name))
        except UnknownTask as error:
            reason = str(error).removeprefix("task: ")
            if ":" not in name:
                raise UserError(f"{file}: tasks: {reason}") from None
            # not this run's task; its module may not be installed
            log.warning("%s: tasks: %s", file, reason)


def _choose_seed(request: RunRequest, host_task: HostTask) -> int:
    """Return the seed of a run: the given one, a random one for -1, or else the task's."""
    seed = request.seed
    if seed is None:
        seed = host_task.agent_defaults.get("seed", DEFAULT_SEED)
    return random.randrange(RANDOM_SEEDS) if seed == -1 else seed


def merge_agent_without_simulator(request: RunRequest) -> PlainMapping | None:
    """Return the values of a request's agent without the simulator's defaults; None if the request has tuned values."""
    if request.spec is not None:
        return request.spec.to_dict()
    if request.tuning is not None:  # tuned values depend on the task's registered id
        return None
    task_spec, overrides = load_task(request.task), split_overrides(request.overrides)[0]
    host = find_host(request.task)
    _, values, _ = merge_agent(
        request.agent, get_task_id(request.task), {}, overrides, task_spec, host=host.title
    )
    return values


def check_without_simulator(
    host: Host,
    task: str,
    agent: str,
    overrides: Sequence[str],
    task_spec: TaskSpec | None,
    is_tuned: bool = False,
) -> None:
    """Run all checks of task and agent that do not need the simulator, whose import takes far longer. Raises UserError.

    The networks are not checked if the agent has tuned values, which depend on the task's registered id.
    """
    _, agent_values, agent_file = read_agent(agent)
    # the module of a task given as module:Id may itself register further ids when it is imported
    if ":" not in task:
        for name in list_task_overrides(agent_values):
            if ":" not in name:
                find_host(name, f"{agent_file}: tasks")  # raises if no host has the task
    if not is_tuned:
        # without the host's defaults, which need the simulator
        _, values, origins = merge_agent(agent, get_task_id(task), {}, overrides, task_spec, host=host.title)
        check_networks(values, origins)


def list_task_overrides(data: PlainMapping) -> list[str]:
    """Return the tasks for which an agent file has overrides.

    Its ``tasks:`` may also hold overrides for all tasks of a host ("Isaac Lab"); these are left out.
    """
    titles = [get_host(name).title for name in list_hosts()]
    return [name for name in data.get("tasks") or () if name not in titles]  # type: ignore[union-attr]


def merge_agent_on_task(
    agent: str, task: str, library: str | None, overrides: Sequence[str]
) -> tuple[str, AgentSpec]:
    """Return the registered id of a task, and the agent merged and checked for it; if ``library`` is None, the agent's learner is used."""
    task_spec, host = load_task(task), find_host(task)
    check_without_simulator(host, task, agent, overrides, task_spec)
    host.require_installed()
    registered_id = host.resolve_task(get_task_id(task))
    learner = select_learner(library, read_algorithm(agent, overrides), agent)
    host_task = host.load_task(TaskRequest(registered_id, learner))
    spec = resolve_agent(
        agent, registered_id, host_task.agent_defaults, overrides, task_spec, host=host.title
    )
    host_task.adapt_to_agent(spec)
    learner.make_runner_cfg(spec)
    return registered_id, spec


def choose_num_envs(task_spec: TaskSpec | None, host_task: HostTask, device: str, algorithm: str) -> int:
    """Return the default number of environments on a ``device``.

    An off-policy algorithm gets the host's number for replay if it has one; else the task file's counts, then the host's default.
    """
    if algorithm in OFF_POLICY.values() and host_task.replay_num_envs is not None:
        return host_task.replay_num_envs
    if task_spec is not None:
        return task_spec.num_envs[device.partition(":")[0]]
    return host_task.get_default_num_envs(device)
