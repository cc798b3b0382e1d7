"""Isaac Lab as a host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from spiky_rl.config.errors import format_install_command, require_module
from spiky_rl.config.options import UserError
from spiky_rl.config.spec import AgentSpec
from spiky_rl.hosts.base import (
    LIVE_VIEW,
    VIDEO,
    ConditionedPolicy,
    Host,
    HostTask,
    SimulationOptions,
    TaskRequest,
)
from spiky_rl.hosts.isaaclab import physics_selection, tasks
from spiky_rl.hosts.isaaclab.condition_names import CONDITION_NAMES, ROBUSTNESS_NAMES

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.workflows import EnvCfg

CPU_ENVS = 256
"""Maximum default number of environments on a CPU."""


class IsaacLabTask(HostTask):
    """A task of Isaac Lab with its configuration."""

    env_cfg: EnvCfg

    def __init__(self, request: TaskRequest) -> None:
        from spiky_rl.hosts.isaaclab import environment

        self.id, self.assets = request.name, request.assets
        self.description = environment.describe_task(self.id)
        self.wanted_physics, overrides = physics_selection.split_physics_override(request.overrides)
        values = request.flatten_task_env()
        overrides = [*(f"env.{path}={value}" for path, value in values.items()), *overrides]
        learner = request.learner
        self.env_cfg, registered = environment.load_configs(
            self.id, f"{learner.name}_cfg_entry_point", overrides
        )
        if registered:
            with environment.silence_isaaclab():
                registered = learner.read_registered_cfg(registered, self.id)
        if not registered.get("actor"):
            raise UserError(
                f"--task {self.id}: Isaac Lab registers no {learner.name} PPO agent for it, which our agents need"
            )
        self.agent_defaults = registered
        environment.require_files(self.env_cfg)
        self.physics = ""

    @override
    def adapt_to_agent(self, spec: AgentSpec) -> None:
        from spiky_rl.hosts.isaaclab import history
        from spiky_rl.hosts.isaaclab.cfg_checks import check_obs_groups, check_symmetry

        groups = spec.runner.get("obs_groups") or {}
        check_obs_groups(self.env_cfg, groups)
        symmetry = spec.runner["algorithm"].get("symmetry_cfg") or {}
        check_symmetry(self.env_cfg, symmetry.get("data_augmentation_func"))
        history.set_history_length(self.env_cfg, spec.runner.get("history", 1), groups)

    @override
    def get_default_num_envs(self, device: str) -> int:
        registered = self.env_cfg.scene.num_envs
        return registered if device.startswith("cuda") else min(CPU_ENVS, registered)

    @override
    def configure(self, device: str, num_envs: int, seed: int) -> None:
        self.physics = physics_selection.apply_physics(self.env_cfg, self.wanted_physics, device)
        self.env_cfg.scene.num_envs, self.env_cfg.sim.device, self.env_cfg.seed = num_envs, device, seed

    @override
    def get_physics_on(self, device: str) -> str:
        if device != "cpu" and self.physics == physics_selection.NATIVE:  # native MuJoCo runs on a CPU only
            return physics_selection.WARP
        return self.physics

    @override
    @contextmanager
    def open(self, device: str, num_envs: int, options: SimulationOptions) -> Iterator[Any]:
        from spiky_rl.hosts.isaaclab import environment

        with environment.open_simulation(self.env_cfg, self.id, device, num_envs, options) as gym_env:
            env = environment.IsaacLabVecEnv(gym_env, clip_actions=options.clip_actions)
            self.physics = physics_selection.get_solver_name(gym_env, self.physics)
            yield env

    @override
    def write_params(self, folder: Path, runner_cfg: Mapping[str, Any]) -> None:
        from isaaclab.utils.io import dump_yaml

        dump_yaml(str(folder / "env.yaml"), self.env_cfg)
        dump_yaml(str(folder / "agent.yaml"), runner_cfg)

    @override
    def select_conditions(self, names: str, policy: ConditionedPolicy, frozen_by: str = "") -> list[str]:
        from spiky_rl.hosts.isaaclab import conditions

        spec = policy.spec
        model = spec.runner.get("actor", {}).get("class_name", "MLPModel")
        subject = conditions.ConditionSubject(
            policy.task, self.env_cfg, policy.leg, spec.network, model, policy.agent
        )
        selected = conditions.parse_conditions(names, subject)
        if frozen_by:
            selected = conditions.remove_network_faults(selected, names, frozen_by)
        conditions.require_conditions(selected, subject)
        return selected

    @override
    def configure_conditions(self, names: Sequence[str]) -> None:
        from spiky_rl.hosts.isaaclab.condition_groups import configure_env

        configure_env(self.env_cfg, names)


class IsaacLab(Host):
    """Isaac Lab 3.0 with Newton, native MuJoCo on a CPU, or PhysX."""

    name, title = "isaaclab", "Isaac Lab"
    abilities = frozenset({VIDEO, LIVE_VIEW})
    distributions = ("isaaclab", "newton", "mujoco", "mujoco-warp", "warp-lang", "torch")
    code_packages = ("isaaclab", "isaaclab_rl", "isaaclab_tasks")

    @override
    def owns(self, task: str) -> bool:
        return tasks.owns_task(task)

    @override
    def list_tasks(self) -> Collection[str]:
        return tasks.list_known_ids()

    @override
    def require_installed(self, video: bool = False) -> None:
        # the extra needs isaaclab_mujoco, which is on no index
        remedy = f"install it {format_install_command('./isaaclab_mujoco', '.[isaaclab]')}"
        require_module("isaaclab", "isaaclab", remedy)
        if video:
            require_module("av", "video")
            from spiky_rl.hosts.isaaclab.camera import setup_graphics

            setup_graphics()

    @override
    def configure_assets(self, source: str) -> str:
        from spiky_rl.hosts.isaaclab.assets import configure_assets

        return configure_assets(source)

    @override
    def resolve_task(self, name: str) -> str:
        from spiky_rl.hosts.isaaclab.environment import resolve_task

        return resolve_task(name)

    @override
    def load_task(self, request: TaskRequest) -> HostTask:
        return IsaacLabTask(request)

    @override
    def check_visualizers(self, names: Sequence[str], records_video: bool) -> None:
        from spiky_rl.hosts.isaaclab.live.setup import check_visualizers

        check_visualizers(names, records_video)

    @override
    def list_conditions(self) -> Mapping[str, Sequence[str]]:
        return {"conditions": CONDITION_NAMES, "all": ROBUSTNESS_NAMES}

    @override
    def parse_conditions(self, names: str) -> list[str]:
        from spiky_rl.hosts.isaaclab.conditions import parse_conditions

        return parse_conditions(names)

    @override
    def get_physics_sources(self, physics: str) -> Iterable[Path]:
        return physics_selection.list_sources() if physics == physics_selection.NATIVE else ()


HOST = IsaacLab()
