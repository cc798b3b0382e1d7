"""Our agents in Isaac Lab's own command line: ``isaaclab train --rl_library rsl_rl --task Isaac-Ant --agent lif_ppo``.

Isaac Lab imports this module before it trains or plays anything, so nothing here may fail: an agent file that cannot be
read is left out with a warning. ``--agent`` is a key of the task's gym specification; its value must be a function.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from spiky_rl import registry, spec

log = logging.getLogger(__name__)

HOST_ENTRY = "rsl_rl_cfg_entry_point"


def add_agents() -> None:
    """Add every agent to every task that has an rsl_rl configuration."""
    import gymnasium
    import isaaclab_tasks  # noqa: F401  pylint: disable=unused-import

    agents = []
    for name in registry.names("agents"):
        try:
            spec.read_agent(name)
            agents.append(name)
        except registry.RegistryError as error:
            log.warning("spiky_rl leaves out the agent %r: %s", name, error)
    for task in gymnasium.registry.values():
        if HOST_ENTRY in task.kwargs:
            for name in agents:
                task.kwargs.setdefault(name, _entry(task.id, name))


def _entry(task: str, agent: str) -> Callable[[], Any]:
    def configuration() -> Any:
        return isaaclab_config(task, agent)

    configuration.__name__ = f"{agent}_cfg"
    return configuration


def isaaclab_config(task: str, agent: str) -> Any:
    """Isaac Lab's configuration object of an agent on a task: the task's own, with what the agent changes."""
    import torch
    from isaaclab_rl.rsl_rl import RslRlRNNModelCfg
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    from spiky_rl.hosts.isaaclab.environment import plain_agent
    from spiky_rl.hosts.rsl_rl.config import runner_config

    host: Any = load_cfg_from_registry(task, HOST_ENTRY)
    # of a copy: Isaac Lab brings the object itself up to date later, and that goes only once
    merged = spec.resolve_agent(agent, task, plain_agent(copy.deepcopy(host)), task_spec=spec.load_task(task))
    config = runner_config(merged)
    if "rnn_type" in config["actor"]:
        host.actor, host.critic = (_as(RslRlRNNModelCfg, model) for model in (host.actor, host.critic))
    _assign(host, config)
    host.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return host


def _as(cls: type, model: Any) -> Any:
    widened = cls()
    widened.__dict__.update({**widened.__dict__, **model.__dict__})
    return widened


def _assign(target: Any, values: dict[str, Any]) -> None:
    """Set values on a configuration object; what it has no field for becomes one, which rsl_rl takes as an argument."""
    for key, value in values.items():
        below = getattr(target, key, None)
        if isinstance(value, dict) and below is not None and hasattr(below, "__dataclass_fields__"):
            _assign(below, value)
        else:
            setattr(target, key, value)


try:
    add_agents()
except Exception as error:  # pylint: disable=broad-exception-caught
    # whatever went wrong is ours: it must not take Isaac Lab's own tasks down with it
    log.warning("spiky_rl could not add its agents to Isaac Lab: %s: %s", type(error).__name__, error)
