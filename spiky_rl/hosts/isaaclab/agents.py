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
from typing import TYPE_CHECKING, Any

from spiky_rl.config import registry, spec
from spiky_rl.config.plain_data import PlainMapping
from spiky_rl.hosts.isaaclab import command
from spiky_rl.hosts.isaaclab.tasks import register_tasks

if TYPE_CHECKING:
    from isaaclab_rl.rsl_rl import RslRlOnPolicyRunnerCfg

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
        if any(_host_entry(library) in task.kwargs for library in CONFIGURATIONS):
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


def make_agent_cfg(task: str, agent: str, library: str = "rsl_rl", action: str = "") -> Any:
    """Isaac Lab's configuration of an agent on a task for an RL library: the task's own, with what the agent changes.

    Args:
        task: The task's id.
        agent: The agent's name.
        library: The RL library.
        action: What it is for, as `command.get_calling_command` says.

    Raises:
        SpecError: The library has no PPO of ours, Isaac Lab does not configure the task for it, or an export would leave a state
            out.
    """
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    known = gymnasium.spec(task).kwargs
    there = [name for name in CONFIGURATIONS if _host_entry(name) in known]
    if library not in there:
        raise spec.SpecError(
            f"--rl_library {library}: is not available with --agent {agent} on {task}; it allows {' and '.join(there)}"
        )
    command.enable_safe_load()
    return CONFIGURATIONS[library](task, agent, load_cfg_from_registry(task, _host_entry(library)), action)


def _host_entry(library: str) -> str:
    return f"{library}_cfg_entry_point"


def _merge_agent(task: str, agent: str, host: PlainMapping, library: str, action: str) -> spec.AgentSpec:
    merged = spec.resolve_agent(agent, task, host, task_spec=spec.load_task(task))
    if action == "train" and merged.runner["algorithm"].get("distillation_cfg"):
        raise spec.SpecError(
            f"--agent {agent}: learns from a teacher first, for which isaaclab train has no option; use spiky train --teacher RUN"
        )
    if action != "export":
        return merged
    command.require_exportable(agent, library, merged.network)
    # LEAPP follows operations of torch's, and sees none of compiled kernels
    overrides = [] if merged.network is None else ["agent.network.backend=torch"]
    return spec.resolve_agent(agent, task, host, overrides, task_spec=spec.load_task(task))


def _rsl_rl(task: str, agent: str, host: RslRlOnPolicyRunnerCfg, action: str) -> RslRlOnPolicyRunnerCfg:
    """Isaac Lab's configuration object ``host``, changed."""
    import torch
    from isaaclab_rl.rsl_rl import RslRlRNNModelCfg

    from spiky_rl.hosts.isaaclab.cfg_fields import to_plain_dict
    from spiky_rl.learners.rsl_rl.config import make_runner_cfg

    # of a copy: Isaac Lab brings the object itself up to date later, and that goes only once
    config = make_runner_cfg(_merge_agent(task, agent, to_plain_dict(copy.deepcopy(host)), "rsl_rl", action))
    if "rnn_type" in config["actor"]:
        host.actor, host.critic = (
            _convert_model(RslRlRNNModelCfg, model) for model in (host.actor, host.critic)
        )
    _set_fields(host, config)
    host.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return host


def _skrl(task: str, agent: str, host: PlainMapping, action: str) -> dict[str, Any]:
    """A nested dict, as Isaac Lab's is."""
    from spiky_rl.learners.skrl.components import register_with_isaaclab
    from spiky_rl.learners.skrl.config import make_isaaclab_cfg as skrl_config
    from spiky_rl.learners.skrl.config import to_rsl_rl_layout

    config = skrl_config(_merge_agent(task, agent, to_rsl_rl_layout(host, task), "skrl", action), host)
    register_with_isaaclab()
    log.warning("spiky_rl: skrl's runner, extended by spiky_rl's models, trains %s", agent)
    return config


CONFIGURATIONS: dict[str, Callable[[str, str, Any, str], Any]] = {"rsl_rl": _rsl_rl, "skrl": _skrl}
"""What makes a configuration, by RL library."""


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
