"""Our agents in Isaac Lab's own command line: ``isaaclab train --rl_library rsl_rl --task Isaac-Ant --agent lif_ppo``.

Isaac Lab imports this module before it trains or plays anything, so nothing here may fail: an agent file that cannot be
read is left out with a warning. ``--agent`` is a key of the task's gym specification; its value must be a function.

What its command needs to be told for them, `spiky_rl.hosts.isaaclab.command` says.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from spiky_rl.config import registry, spec
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.hosts.isaaclab import command
from spiky_rl.hosts.isaaclab.tasks import register_tasks
from spiky_rl.learners import DEFAULT_LEARNER, get_learner, list_learners

log = logging.getLogger(__name__)


def register_agents() -> None:
    """Add every agent to every task that has a configuration for a library that can train it."""
    agents = []
    for name in registry.list_names("agents"):
        try:
            spec.read_agent(name)
            agents.append(name)
        except registry.RegistryError as error:
            log.warning("spiky_rl leaves out the agent %r: %s", name, error)
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
    def configuration() -> Any:
        try:
            action, library = command.get_calling_command()
            return make_agent_cfg(task, agent, library, action)
        except registry.UserError as error:
            # as our own commands end: Isaac Lab has none but tracebacks for what a user said
            log.error("error: %s", error)
            raise SystemExit(2) from None

    configuration.__name__ = f"{agent}_cfg"
    return configuration


def make_agent_cfg(task: str, agent: str, library: str = DEFAULT_LEARNER, action: str = "") -> Any:
    """Return Isaac Lab's configuration of an agent on a task: the task's own, with the agent's changes.

    Args:
        task: The task's id.
        agent: The agent's name.
        library: Name of the learner, which is Isaac Lab's name of the RL library.
        action: The command that asks, as `command.get_calling_command` returns it.

    Raises:
        SpecError: The learner is not available for the task, or an export would leave a state out.
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
    # of a copy: Isaac Lab brings the object itself up to date later, and that goes only once
    defaults = learner.read_registered_cfg(to_plain_dict(copy.deepcopy(registered)), task)
    merged = _merge_agent(task, agent, defaults, library, action)
    if isinstance(registered, Mapping):
        log.warning("spiky_rl: %s's runner, extended by spiky_rl's models, trains %s", library, agent)
        return learner.make_registered_cfg(merged, registered)
    _change_cfg(registered, learner.make_registered_cfg(merged, defaults))
    return registered


def _get_entry(library: str) -> str:
    return f"{library}_cfg_entry_point"


def _merge_agent(task: str, agent: str, defaults: PlainMapping, library: str, action: str) -> spec.AgentSpec:
    merged = spec.resolve_agent(agent, task, defaults, task_spec=spec.load_task(task))
    if action == "train" and merged.runner["algorithm"].get("distillation_cfg"):
        raise spec.SpecError(
            f"--agent {agent}: learns from a teacher first, for which isaaclab train has no option; use spiky train --teacher RUN"
        )
    if action != "export":
        return merged
    command.require_exportable(agent, library, merged.network)
    # LEAPP follows operations of torch's, and sees none of compiled kernels
    overrides = [] if merged.network is None else ["agent.network.backend=torch"]
    return spec.resolve_agent(agent, task, defaults, overrides, task_spec=spec.load_task(task))


def _change_cfg(registered: Any, config: PlainMapping) -> None:
    """Change Isaac Lab's configuration object as ``config`` says."""
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
    widened.__dict__.update({**widened.__dict__, **model.__dict__})
    return widened


def _set_fields(target: object, values: Mapping[str, object]) -> None:
    """Set values on a configuration object; what it has no field for becomes one, which rsl_rl takes as an argument."""
    for key, value in values.items():
        below = getattr(target, key, None)
        if isinstance(value, dict) and below is not None and hasattr(below, "__dataclass_fields__"):
            _set_fields(below, value)
        else:
            setattr(target, key, value)


try:
    register_agents()
except Exception as error:  # pylint: disable=broad-exception-caught
    # whatever went wrong is ours: it must not take Isaac Lab's own tasks down with it
    log.warning("spiky_rl could not add its agents to Isaac Lab: %s: %s", type(error).__name__, error)
