# pyright: reportMissingImports=false
"""mjlab as a host."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.metadata
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from spiky_rl.config.errors import format_install_command, require_module
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.base import (
    VIDEO,
    Host,
    HostTask,
    SimulationOptions,
    TaskRequest,
    make_unknown_task,
    read_registered_ids,
    require_obs_groups,
)
from spiky_rl.learners import DEFAULT_LEARNER

if TYPE_CHECKING:
    from mjlab.envs import ManagerBasedRlEnvCfg

PREFIX = "Mjlab-"
"""First part of the ids of mjlab's tasks."""
EXTENSIONS = "mjlab.tasks"
"""Entry point group of packages that register tasks with mjlab."""
NUM_ENVS = {"cpu": 256, "cuda": 4096}
"""Default number of environments by kind of device; mjlab registers one, and its documentation trains with 4096."""


class MjlabTask(HostTask):
    """A task of mjlab with its training configuration."""

    physics = "mujoco_warp"

    def __init__(self, request: TaskRequest) -> None:
        from mjlab.tasks.registry import load_env_cfg, load_rl_cfg

        from spiky_rl.hosts.mjlab.configs import convert_to_agent_layout
        from spiky_rl.hosts.mjlab.overrides import apply_overrides

        if request.learner.name != DEFAULT_LEARNER:
            raise UserError(
                f"--rl_library {request.learner.name}: not available on tasks of mjlab; allowed: {DEFAULT_LEARNER}"
            )
        self.id, self.assets = request.name, request.assets
        self.description = f"{self.id} of mjlab {importlib.metadata.version('mjlab')}"
        self.env_cfg: ManagerBasedRlEnvCfg = load_env_cfg(self.id)
        values = request.flatten_task_env()
        overrides = [f"env.{key}={json.dumps(value)}" for key, value in values.items()]
        # studies name the physics in every cell
        overrides += [text for text in request.overrides if text != f"physics={self.physics}"]
        apply_overrides(self.env_cfg, overrides)
        require_motion(self.env_cfg)
        self.agent_defaults = convert_to_agent_layout(load_rl_cfg(self.id))  # type: ignore[arg-type]  # all of mjlab's are on-policy

    @override
    def adapt_to_agent(self, spec: AgentSpec) -> None:
        known = [name for name, group in self.env_cfg.observations.items() if group is not None]
        used = spec.runner.get("obs_groups") or {}
        require_obs_groups(used, known)
        history = spec.runner.get("history", 1)
        if history > 1:
            for role in ("actor", "critic"):
                for group in used.get(role, (role,)):
                    self.env_cfg.observations[group].history_length = history
                    self.env_cfg.observations[group].flatten_history_dim = True

    @override
    def get_default_num_envs(self, device: str) -> int:
        return NUM_ENVS[device.partition(":")[0]]

    @override
    def configure(self, device: str, num_envs: int, seed: int) -> None:
        self.env_cfg.scene.num_envs, self.env_cfg.seed = num_envs, seed

    @override
    def open(self, device: str, num_envs: int, options: SimulationOptions) -> AbstractContextManager[Any]:
        from spiky_rl.hosts.mjlab.environment import open_environment

        self.configure(device, num_envs, options.seed)
        return open_environment(self.env_cfg, device, options)

    @override
    def write_params(self, folder: Path, runner_cfg: Mapping[str, Any]) -> None:
        from mjlab.utils.os import dump_yaml

        dump_yaml(folder / "env.yaml", dataclasses.asdict(self.env_cfg))
        dump_yaml(folder / "agent.yaml", dict(runner_cfg))


class Mjlab(Host):
    """mjlab 1.6: manager-based tasks on MuJoCo Warp."""

    name, title, assets = "mjlab", "mjlab", "mjlab's own"
    abilities = frozenset({VIDEO})
    distributions = ("mjlab", "mujoco", "mujoco-warp", "warp-lang", "torch")
    code_packages = ("mjlab",)

    @override
    def owns(self, task: str) -> bool:
        if task in self.list_tasks():
            return True
        # without mjlab, or with packages that register tasks, not all ids are known
        return not list_registered_ids() and task.startswith(PREFIX)

    @override
    def list_tasks(self) -> Collection[str]:
        # if mjlab is imported, a module of the user may have registered more tasks
        registry = sys.modules.get("mjlab.tasks.registry")
        return {*list_registered_ids(), *(registry.list_tasks() if registry else ())}

    @override
    def require_installed(self, video: bool = False) -> None:
        # mjlab's pins would replace Isaac Lab's versions
        place = "an environment without Isaac Lab and without the extra gymnasium"
        require_module("mjlab", "mjlab", f"in {place}, install it {format_install_command('.[mjlab]')}")
        if video:
            require_module("av", "video")

    @override
    def resolve_task(self, name: str) -> str:
        from spiky_rl.hosts.environment import log_prints

        with log_prints("mjlab"):
            import mjlab.tasks  # noqa: F401  # pylint: disable=unused-import  # registers them
            from mjlab.tasks.registry import list_tasks

        registered_id, known = name.rpartition(":")[2], list_tasks()
        if registered_id not in known:
            raise make_unknown_task("task", name, known)
        return registered_id

    @override
    def load_task(self, request: TaskRequest) -> HostTask:
        return MjlabTask(request)


@functools.cache
def list_registered_ids() -> frozenset[str]:
    """Return the ids of mjlab's tasks, without importing it; empty as for `read_registered_ids`."""
    # our own entry points register no further tasks
    return read_registered_ids("mjlab", EXTENSIONS, ("spiky_rl.",), _iterate_ids)


def _iterate_ids(text: str) -> Iterator[ast.expr | None]:
    """Yield the expression of each id that a module registers; None for a registration without a keyword ``task_id``."""
    if "register_mjlab_task" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if getattr(getattr(node, "func", None), "id", "") == "register_mjlab_task":
            keywords = {word.arg: word.value for word in getattr(node, "keywords", ())}
            yield keywords.get("task_id")


def require_motion(env_cfg: ManagerBasedRlEnvCfg) -> None:
    """Raise UserError if a command of the task tracks a motion whose file does not exist."""
    for name, command in env_cfg.commands.items():
        file = getattr(command, "motion_file", None)
        if file is not None and not Path(file).is_file():
            key = f"env.commands.{name}.motion_file"
            raise UserError(
                f"{key}: {file!r} given; allowed: the .npz file of a motion, as mjlab's csv_to_npz writes it"
            )


HOST = Mjlab()
