"""Names of Isaac Lab's tasks and ours, found without importing Isaac Lab, and the registration of ours."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from spiky_rl.config import registry
from spiky_rl.config.spec import load_task
from spiky_rl.hosts.base import UnknownTask

OWN = "Spiky-Velocity-Flat-Go1"
GO1 = "isaaclab_tasks.contrib.velocity.config.go1.agents"
"""Package of Isaac Lab's PPO configurations for its flat velocity task of the same robot."""


OUR_ENTRIES = ("spiky_rl.", "isaaclab_mujoco.")
"""Entry points that register no tasks beyond `OWN`."""
EXTENSIONS = "isaaclab.tasks"
"""Entry point group of packages that register tasks with Isaac Lab."""


def require_task(key: str, name: str) -> None:
    """Raise UnknownTask with the nearest names for an unknown task, as far as it can be checked without Isaac Lab.

    `resolve_task` of the module `environment` checks the rest.

    Args:
        key: Flag or key that names the task, for messages.
        name: A file stem of tasks/, or a gym id with or without ``-v0``.
    """
    if ":" in name or load_task(name) is not None:
        return
    known = list_registered_ids()
    if "gymnasium" in sys.modules:  # a program may have registered its own task
        known = known and known | set(sys.modules["gymnasium"].registry)
    if known and known.isdisjoint((name, strip_version(name))):
        raise make_unknown_task(key, name, known)


def strip_version(name: str) -> str:
    """Return a gym id without the ``-v0`` of Isaac Lab 2."""
    return re.sub(r"-v\d+$", "", name)


def make_unknown_task(key: str, name: str, known: Collection[str]) -> UnknownTask:
    """Return the error for the unknown task ``name`` of the flag or key ``key``, with the nearest ``known`` names."""
    names = {*known, *registry.list_names("tasks")}
    close = difflib.get_close_matches(strip_version(name), names, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return UnknownTask(f"{key}: {name!r} is not registered; {hint}`isaaclab list_envs --all` lists all tasks")


@functools.cache
def list_registered_ids() -> frozenset[str]:
    """Return the ids that Isaac Lab and this package register, read from Isaac Lab's files without importing it.

    Empty if the list would be incomplete: another package registers tasks too, or an id is computed.
    """
    entries = importlib.metadata.entry_points(group=EXTENSIONS)
    package = importlib.util.find_spec("isaaclab_tasks")
    if package is None or any(not entry.value.startswith(OUR_ENTRIES) for entry in entries):
        return frozenset()
    folders = map(Path, package.submodule_search_locations or ())
    texts = [path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("__init__.py")]
    values = [value for text in texts if "gymnasium" in text for value in _iterate_ids(text)]
    if not all(isinstance(value, ast.Constant) for value in values):
        return frozenset()
    return frozenset({OWN, *(str(ast.literal_eval(value)) for value in values)})


def _iterate_ids(text: str) -> Iterator[ast.expr]:
    """Yield the values of all arguments ``id`` in the source ``text`` of a module."""
    for node in ast.walk(ast.parse(text)):
        for word in getattr(node, "keywords", ()):
            if word.arg == "id":
                yield word.value


def register_tasks() -> None:
    """Register our task with gymnasium, once."""
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
