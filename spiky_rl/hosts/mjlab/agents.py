# pyright: reportMissingImports=false
"""Our agents in mjlab's own commands: ``train Mjlab-Cartpole-Balance-lif_ppo`` trains lif_ppo on Mjlab-Cartpole-Balance.

mjlab imports this module whenever it is imported itself. The module registers a task only if the command line names one: the id
of a task, a hyphen, and the name of a file in ``agents/``. All tasks with all agents would be hundreds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from spiky_rl.config import registry
from spiky_rl.config.errors import UserError


def find_agent(name: str) -> tuple[str, str] | None:
    """Return (task, agent) of a task's id with an agent's name, or None if the name ends with no agent's; the longest counts."""
    agents = [agent for agent in registry.list_names("agents") if name.endswith(f"-{agent}")]
    agent = max(agents, key=len, default="")
    task = name.removesuffix(f"-{agent}")
    return (task, agent) if agent and task else None


def register_agent(task: str, agent: str) -> str:
    """Register a ``task`` of mjlab with one of our agents, if mjlab has the task, and return the id.

    Raises SpecError if mjlab's command cannot train the agent.
    """
    import mjlab.tasks  # noqa: F401  # pylint: disable=unused-import  # registers them
    from mjlab.tasks.registry import (
        list_tasks,
        load_env_cfg,
        load_rl_cfg,
        load_runner_cls,
        register_mjlab_task,
    )

    from spiky_rl.hosts.mjlab.configs import ExportingRunner, make_agent_cfg

    name = f"{task}-{agent}"
    if task in list_tasks() and name not in list_tasks():
        rl_cfg: Any = load_rl_cfg(task)
        register_mjlab_task(
            name,
            load_env_cfg(task),
            load_env_cfg(task, play=True),
            make_agent_cfg(agent, rl_cfg, task),
            load_runner_cls(task) or ExportingRunner,
        )
    return name


def register_named_agent(arguments: Sequence[str]) -> None:
    """If a command line names a task with one of our agents, register it; end the command if the agent is invalid."""
    task_and_agent = find_agent(arguments[1]) if len(arguments) > 1 else None
    if task_and_agent is None:
        return
    try:
        register_agent(*task_and_agent)
    except UserError as error:  # one line as in our own commands; mjlab would print a traceback and go on
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


register_named_agent(sys.argv)
