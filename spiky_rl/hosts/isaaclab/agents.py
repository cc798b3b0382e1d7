"""Our agents in Isaac Lab's own command line: ``isaaclab train --rl_library rsl_rl --task Isaac-Ant --agent lif_ppo``.

Isaac Lab imports this module before every training and playback, so nothing here may fail: unreadable agent files are skipped
with a warning. ``--agent`` is a key of the task's gym specification; its value must be a function. Changes to Isaac Lab's
commands are in `spiky_rl.hosts.isaaclab.command`.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from spiky_rl.config import registry, spec
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.hosts.isaaclab import command
from spiky_rl.hosts.isaaclab.host import HOST
from spiky_rl.hosts.isaaclab.tasks import register_tasks
from spiky_rl.learners import DEFAULT_LEARNER, get_learner, list_learners, require_algorithm

log = logging.getLogger(__name__)


def register_agents() -> None:
    """Add every agent to every task that has a configuration for a library that can train it."""
    agents = []
    for name in registry.list_names("agents"):
        try:
            spec.read_agent(name)
            agents.append(name)
        except registry.RegistryError as error:
            log.warning("spiky_rl: skipping the agent %r: %s", name, error)
    command.prepare_isaaclab_command(sys.argv, agents)

    import gymnasium
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import  # registers the tasks

    register_tasks()
    command.add_physics_option(sys.argv, agents, gymnasium.registry)
    command.set_observation_history(sys.argv, agents, gymnasium.registry)
    for task in gymnasium.registry.values():
        if any(_get_entry(library) in task.kwargs for library in list_learners()):
            for name in agents:
                task.kwargs.setdefault(name, _make_entry_point(task.id, name))


def _make_entry_point(task: str, agent: str) -> Callable[[], Any]:
    def load_cfg() -> Any:
        try:
            action, library = command.get_calling_command()
            return make_agent_cfg(task, agent, library, action)
        except registry.UserError as error:
            # one line as in our own commands; Isaac Lab would print a traceback
            log.error("error: %s", error)
            raise SystemExit(2) from None

    load_cfg.__name__ = f"{agent}_cfg"
    return load_cfg


def make_agent_cfg(task: str, agent: str, library: str = DEFAULT_LEARNER, action: str = "") -> Any:
    """Return Isaac Lab's configuration of an ``agent`` on a ``task``: the task's own, with the agent's changes.

    ``library`` names the learner, as Isaac Lab does; ``action`` is the calling command, from `command.get_calling_command`.

    Raises SpecError if the learner is not available for the task, or an export would lose a state.
    """
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    from spiky_rl.hosts.isaaclab.cfg_fields import to_plain_dict

    known = gymnasium.spec(task).kwargs
    available = [name for name in list_learners() if _get_entry(name) in known]
    if library not in available:
        raise spec.SpecError(
            f"--rl_library {library}: not available with --agent {agent} on {task}; allowed: {', '.join(available)}"
        )
    command.enable_safe_load()
    learner = get_learner(library)
    registered: Any = load_cfg_from_registry(task, _get_entry(library))
    # a copy, because Isaac Lab later upgrades the object itself, which works only once
    defaults = learner.read_registered_cfg(to_plain_dict(copy.deepcopy(registered)), task)
    merged = _merge_agent(task, agent, defaults, library, action)
    require_algorithm(learner, merged.algorithm, agent)
    if isinstance(registered, Mapping):
        log.warning("spiky_rl: training %s with the runner of %s and the models of spiky_rl", agent, library)
        return learner.make_registered_cfg(merged, registered)
    _change_cfg(registered, learner.make_registered_cfg(merged, defaults))
    return registered


def _get_entry(library: str) -> str:
    return f"{library}_cfg_entry_point"


def _merge_agent(task: str, agent: str, defaults: PlainMapping, library: str, action: str) -> spec.AgentSpec:
    resolve = partial(
        spec.resolve_agent, agent, task, defaults, task_spec=spec.load_task(task), host=HOST.title
    )
    merged = resolve()
    if action == "train" and merged.runner["algorithm"].get("distillation_cfg"):
        raise spec.SpecError(
            f"--agent {agent}: needs a teacher, for which isaaclab train has no option; use spiky train --teacher RUN"
        )
    if action != "export":
        return merged
    command.require_exportable(agent, library, merged.network)
    # LEAPP traces torch operations and cannot trace compiled kernels
    return merged if merged.network is None else resolve(["agent.network.backend=torch"])


def _change_cfg(registered: Any, config: PlainMapping) -> None:
    """Set the values of ``config`` on Isaac Lab's configuration object."""
    import torch
    from isaaclab_rl.rsl_rl import RslRlRNNModelCfg

    if "rnn_type" in config["actor"]:  # type: ignore[operator]
        registered.actor, registered.critic = (
            _convert_model(RslRlRNNModelCfg, model) for model in (registered.actor, registered.critic)
        )
    _set_fields(registered, config)
    registered.device = "cuda:0" if torch.cuda.is_available() else "cpu"


def _convert_model[T](cls: type[T], model: object) -> T:
    widened = cls()
    widened.__dict__.update(model.__dict__)
    return widened


def _set_fields(target: object, values: Mapping[str, object]) -> None:
    """Set values on a configuration object; unknown keys become new fields, which rsl_rl takes as arguments."""
    for key, value in values.items():
        below = getattr(target, key, None)
        if isinstance(value, dict) and below is not None and hasattr(below, "__dataclass_fields__"):
            _set_fields(below, value)
        else:
            setattr(target, key, value)


try:
    register_agents()
except Exception as error:  # pylint: disable=broad-exception-caught
    # an error of ours must not break Isaac Lab's own tasks
    log.warning("spiky_rl could not add its agents to Isaac Lab: %s: %s", type(error).__name__, error)
