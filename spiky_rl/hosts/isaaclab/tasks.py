"""Names of Isaac Lab's tasks and ours, found without importing Isaac Lab, and the registration of ours."""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from spiky_rl.hosts.base import read_registered_ids

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

OWN_TASK = "Spiky-Velocity-Flat-Go1"
GO1 = "isaaclab_tasks.contrib.velocity.config.go1.agents"
"""Package of Isaac Lab's PPO configurations for its flat velocity task of the same robot."""


PREFIXES = ("Isaac-", "IsaacContrib-", "Spiky-")
"""Prefixes of the ids of Isaac Lab's tasks and of `OWN_TASK`."""
ENV_CFG = "env_cfg_entry_point"
"""Keyword argument of every task of Isaac Lab in gymnasium's registry."""
OUR_ENTRIES = ("spiky_rl.", "isaaclab_mujoco.")
"""Entry points that register no tasks beyond `OWN_TASK`."""
EXTENSIONS = "isaaclab.tasks"
"""Entry point group of packages that register tasks with Isaac Lab."""


def owns_task(name: str) -> bool:
    """Return whether Isaac Lab has a task ``name``, as far as known without importing it; `resolve_task` checks the rest."""
    if importlib.util.find_spec("isaaclab_tasks") is None:
        return name.startswith(PREFIXES)
    if spec := _get_registry().get(name):
        return ENV_CFG in spec.kwargs
    known = list_registered_ids()
    return not known or not known.isdisjoint(get_possible_ids(name))


def get_possible_ids(name: str) -> tuple[str, ...]:
    """Return the ids that ``name`` may stand for: itself, or without the ``-v0`` of Isaac Lab 2, whose tasks have no version now."""
    return (name, name.removesuffix("-v0"))


def list_known_ids() -> frozenset[str]:
    """Return the ids of `list_registered_ids` and those that files of the user have registered; empty as for `read_registered_ids`."""
    ids = list_registered_ids()
    return ids | {name for name, spec in _get_registry().items() if ENV_CFG in spec.kwargs} if ids else ids


def _get_registry() -> Mapping[str, EnvSpec]:
    """Return gymnasium's registry; empty before gymnasium is imported."""
    return sys.modules["gymnasium"].registry if "gymnasium" in sys.modules else {}


@functools.cache
def list_registered_ids() -> frozenset[str]:
    """Return the ids that Isaac Lab and this package register, without importing it; empty as for `read_registered_ids`."""
    ids = read_registered_ids("isaaclab_tasks", EXTENSIONS, OUR_ENTRIES, _iterate_ids)
    return ids | {OWN_TASK} if ids else ids


def _iterate_ids(text: str) -> Iterator[ast.expr]:
    """Yield the values of all arguments ``id`` in the source ``text`` of a module that uses gymnasium."""
    for node in ast.walk(ast.parse(text)) if "gymnasium" in text else ():
        for word in getattr(node, "keywords", ()):
            if word.arg == "id":
                yield word.value


def register_tasks() -> None:
    """Register our task with gymnasium, once."""
    import gymnasium

    if OWN_TASK not in gymnasium.registry:
        gymnasium.register(
            id=OWN_TASK,
            entry_point="isaaclab.envs:ManagerBasedRLEnv",
            disable_env_checker=True,
            kwargs={
                "env_cfg_entry_point": "spiky_rl.hosts.isaaclab.go1_flat:Go1FlatEnvCfg",
                "rsl_rl_cfg_entry_point": f"{GO1}.rsl_rl_ppo_cfg:UnitreeGo1FlatPPORunnerCfg",
                "skrl_cfg_entry_point": f"{GO1}:skrl_flat_ppo_cfg.yaml",
            },
        )
