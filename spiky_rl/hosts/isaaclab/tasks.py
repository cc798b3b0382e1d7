"""Names of Isaac Lab's tasks, ours among them: registered for its commands, and known without importing it."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Collection
from pathlib import Path

from spiky_rl.config import registry
from spiky_rl.config.spec import load_task
from spiky_rl.hosts.base import UnknownTask

OWN = "Spiky-Velocity-Flat-Go1"
GO1 = "isaaclab_tasks.contrib.velocity.config.go1.agents"
"""Isaac Lab's PPO for its flat velocity task of the same robot."""


EXTENSIONS = "isaaclab.tasks"
"""Entry points of packages that register tasks of their own with Isaac Lab."""


def require_task(key: str, name: str) -> None:
    """Refuse a task that nothing registers, as far as that is known without importing Isaac Lab; the rest `resolve_task` sees.

    Args:
        key: What names the task, for messages.
        name: A file stem of tasks/, or a gym id with or without ``-v0``.

    Raises:
        UnknownTask: It names the nearest ones.
    """
    if ":" in name or load_task(name) is not None:
        return
    known = registered_ids()
    if "gymnasium" in sys.modules:  # a program may have registered a task of its own
        known = known and known | set(sys.modules["gymnasium"].registry)
    if known and known.isdisjoint((name, without_version(name))):
        raise unknown_task(key, name, known)


def without_version(name: str) -> str:
    """A gym id without the ``-v0`` of Isaac Lab 2."""
    return re.sub(r"-v\d+$", "", name)


def unknown_task(key: str, name: str, known: Collection[str]) -> UnknownTask:
    """The error that ``key`` names a task that is none of the ``known`` ones."""
    names = {*known, *registry.list_names("tasks")}
    close = difflib.get_close_matches(without_version(name), names, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return UnknownTask(f"{key}: {name!r} is not registered; {hint}`isaaclab list_envs --all` lists all tasks")


@functools.cache
def registered_ids() -> frozenset[str]:
    """Ids that Isaac Lab and this package register, read from Isaac Lab's files without importing it.

    Empty where that would not be all: another package registers tasks too, or an id is made by a program.
    """
    entries = importlib.metadata.entry_points(group=EXTENSIONS)
    package = importlib.util.find_spec("isaaclab_tasks")
    if package is None or any(not entry.value.startswith("spiky_rl.") for entry in entries):
        return frozenset()
    ids = {OWN}
    for folder in package.submodule_search_locations or ():
        for path in Path(folder).rglob("__init__.py"):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "gymnasium" in text else ():
                values = [word.value for word in getattr(node, "keywords", ()) if word.arg == "id"]
                if not all(isinstance(value, ast.Constant) for value in values):
                    return frozenset()
                ids |= {str(ast.literal_eval(value)) for value in values}
    return frozenset(ids)


def register_tasks() -> None:
    """Register them with gymnasium, once."""
    import gymnasium

    if OWN not in gymnasium.registry:
        gymnasium.register(
            id=OWN,
            entry_point="isaaclab.envs:ManagerBasedRLEnv",
            disable_env_checker=True,
            kwargs={
                "env_cfg_entry_point": "spiky_rl.hosts.isaaclab.go1_flat:Go1FlatEnvCfg",
                "rsl_rl_cfg_entry_point": f"{GO1}.rsl_rl_ppo_cfg:UnitreeGo1FlatPPORunnerCfg",
                "skrl_cfg_entry_point": f"{GO1}:skrl_flat_ppo_cfg.yaml",
            },
        )
