"""Gymnasium as a host."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import yaml

from spiky_rl.config import files
from spiky_rl.config.errors import get_error_text, require_module
from spiky_rl.config.options import UserError, check_number, suggest_name
from spiky_rl.config.safe_loading import ReadingError, parse_yaml
from spiky_rl.config.schema import CATEGORICAL
from spiky_rl.config.spec import AgentSpec, strip_version
from spiky_rl.hosts.base import (
    SECOND_SIMULATION,
    VIDEO,
    Host,
    HostTask,
    SimulationOptions,
    TaskRequest,
    find_latest_version,
    make_unknown_task,
)

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from spiky_rl.hosts.gymnasium.spaces import TaskSpaces

log = logging.getLogger(__name__)

TRACKING_CAMERA = "track"
"""Name of the camera that follows the robot in the models of Gymnasium."""
PLUGINS = "gymnasium.envs"
"""Entry point group of packages that register tasks with Gymnasium."""
MAX_EPISODE_STEPS = 10_000
"""Time limit of an episode, in control steps, on tasks that register none."""
RESERVED_KEYS = {"num_envs", "vector_kwargs", "wrappers"}
"""Parameters of ``gymnasium.make_vec`` that every run sets."""
VECTORIZATION_MODES = ("sync", "async")
"""Values of the override ``env.vectorization_mode``: all environments in this process, or one process each."""
NUM_ENVS = 32
"""Default number of environments: enough for 16 minibatches of a recurrent agent, which need two environments each."""
CNN = {
    "output_channels": [16, 32, 32],
    "kernel_size": [5, 3, 3],
    "stride": [2, 2, 2],
    "padding": "zeros",
    "activation": "elu",
}
"""Convolutions of an ANN on images of any size."""


class GymnasiumTask(HostTask):
    """A task of Gymnasium with the keyword arguments of its environments."""

    physics = "gymnasium"
    replay_num_envs = 1
    camera: str | None = None
    """Name of the camera that follows the robot; None if the task has none."""
    history = 1
    """Control steps in one observation."""

    def __init__(self, request: TaskRequest) -> None:
        import gymnasium

        self.id, self.assets = request.name, request.assets
        self.settings = dict(request.task_spec.env) if request.task_spec else {}
        self.settings |= _parse_overrides(request.overrides)
        if reserved := RESERVED_KEYS & self.settings.keys():
            name = min(reserved)
            raise UserError(
                f"env.{name}: {self.settings[name]!r} given, but every run sets it; allowed: --num_envs, keyword arguments of the task"
            )
        self.vectorization_mode = self.settings.pop("vectorization_mode", "sync")
        if self.vectorization_mode not in VECTORIZATION_MODES:
            raise UserError(
                f"env.vectorization_mode: {self.vectorization_mode!r} given; allowed: {', '.join(VECTORIZATION_MODES)}"
            )
        registered = gymnasium.spec(self.id)
        limits = (self.settings.get("max_episode_steps"), registered.max_episode_steps, MAX_EPISODE_STEPS)
        limit = next(limit for limit in limits if limit is not None)
        self.max_episode_steps = check_number("env.max_episode_steps", limit, int, low=1)
        if registered.max_episode_steps is None:
            log.info("%s has no time limit; an episode has at most %d steps", self.id, limit)
            self.settings["max_episode_steps"] = limit
        self.spaces = self._read_spaces(registered)
        self.has_action_bounds = not self.spaces.is_discrete
        self.description = f"{self.id} of {_describe_package(_get_package(registered))}"
        self.agent_defaults = make_agent_defaults(self.id, self.spaces)

    def _read_spaces(self, registered: EnvSpec) -> TaskSpaces:
        """Return the spaces of one environment. Raises UserError for settings that do not work and spaces that are not available."""
        import gymnasium

        from spiky_rl.hosts.gymnasium.spaces import TaskSpaces

        own_settings = {key: value for key, value in self.settings.items() if key != "max_episode_steps"}
        try:
            env = gymnasium.make(self.id, **self.settings)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UserError(f"--task {self.id}: {error}") from error
        except Exception as error:  # a task may raise anything
            if own_settings:
                raise _make_settings_error(registered, own_settings, error) from error
            raise
        with closing(env):
            self.camera = _find_camera(env)
            spaces = TaskSpaces.read(self.id, env)
            if own_settings:
                try:
                    env.reset()
                    env.step(env.action_space.sample())
                except Exception as error:
                    raise _make_settings_error(registered, own_settings, error) from error
        return spaces

    @override
    def adapt_to_agent(self, spec: AgentSpec) -> None:
        if spec.runner.get("init_at_random_ep_len"):
            raise UserError(
                f"agent.init_at_random_ep_len: true given, but tasks of {Gymnasium.title} count their steps themselves; allowed: false"
            )
        self.spaces.check_agent(self.id, spec)
        self.history = spec.runner.get("history", 1)

    @override
    def require_video(self) -> None:
        if self.vectorization_mode != "sync":
            raise UserError(
                "--video: needs env.vectorization_mode=sync, whose environments are in this process"
            )

    @override
    def get_default_num_envs(self, device: str) -> int:
        return NUM_ENVS

    @override
    def open(self, device: str, num_envs: int, options: SimulationOptions) -> AbstractContextManager[Any]:
        from spiky_rl.hosts.gymnasium.environment import GymnasiumVecEnv

        return closing(GymnasiumVecEnv(self, device, num_envs, options))

    @override
    def write_params(self, folder: Path, runner_cfg: Mapping[str, Any]) -> None:
        env_cfg = {"id": self.id, "vectorization_mode": self.vectorization_mode, **self.settings}
        for name, content in (("env.yaml", env_cfg), ("agent.yaml", dict(runner_cfg))):
            files.write_text(folder / name, yaml.safe_dump(content, sort_keys=False))


def _make_settings_error(registered: EnvSpec, settings: Mapping[str, Any], error: Exception) -> UserError:
    """Return the error for ``settings`` under which a task raised ``error``; it names only the setting that the task does not know."""
    from gymnasium.envs.registration import load_env_creator

    # part of the message of Python's TypeError for an unknown keyword argument
    if key := next((key for key in settings if f"argument '{key}'" in str(error)), None):
        entry = registered.entry_point
        if isinstance(entry, str):
            entry = load_env_creator(entry)
        parameters = inspect.signature(entry).parameters.values() if entry else ()
        allowed = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        names = sorted(allowed - {"render_mode"} | {"max_episode_steps", "vectorization_mode"})
        return UserError(f"env.{key}: unknown; allowed: {', '.join(names)}{suggest_name(key, names)}")
    given = ", ".join(f"env.{key}={value!r}" for key, value in settings.items())
    return UserError(
        f"{given}: {registered.id} does not start with it: {type(error).__name__}: {get_error_text(error)}"
    )


def make_agent_defaults(task: str, spaces: TaskSpaces) -> dict[str, Any]:
    """Return the settings in the layout of agent files.

    They follow CleanRL's for continuous actions, with its 2,048 samples per update from 32 environments instead of one, and a
    fixed learning rate. Scaled rewards matter on all tasks: the clipped value loss moves a value by at most 0.2 per update.
    """
    distribution: dict[str, Any] = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log"}
    if spaces.is_discrete:
        distribution = {"class_name": CATEGORICAL}
        if spaces.component_choices:
            distribution["choices"] = spaces.component_choices
    model: dict[str, Any] = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "tanh"}
    if spaces.is_image:
        model |= {"class_name": "CNNModel", "hidden_dims": [128], "activation": "elu", "cnn_cfg": CNN}
    else:
        model["obs_normalization"] = True
    return {
        "experiment_name": re.sub(r"[^\w.+-]", "_", task),
        "seed": 42,
        "num_steps_per_env": 64,
        "max_iterations": 488,
        "save_interval": 50,
        "init_at_random_ep_len": False,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**model, "distribution_cfg": distribution},
        "critic": model,
        "algorithm": {
            "class_name": "PPO",
            "learning_rate": 3.0e-4,
            "schedule": "fixed",
            "desired_kl": 0.01,
            "num_learning_epochs": 10,
            "num_mini_batches": 16,
            "gamma": 0.99,
            "lam": 0.95,
            "clip_param": 0.2,
            "entropy_coef": 0.0,
            "value_loss_coef": 0.5,
            "use_clipped_value_loss": True,
            "max_grad_norm": 0.5,
            "reward_normalization": True,
        },
    }


class Gymnasium(Host):
    """Gymnasium's registered tasks with Box, Discrete, MultiDiscrete or MultiBinary actions."""

    name, title = "gymnasium", "Gymnasium"
    abilities = frozenset({VIDEO, SECOND_SIMULATION})
    distributions = ("gymnasium", "mujoco", "torch")

    @override
    def owns(self, task: str) -> bool:
        if known := self.list_tasks():
            return find_latest_version(task, known) is not None
        # without Gymnasium, an id such as Hopper-v5 is taken for one of its tasks, to say that it must be installed
        return strip_version(task) != task and not task.startswith("Isaac")

    @override
    def list_tasks(self) -> Collection[str]:
        if importlib.util.find_spec("gymnasium") is None:
            return ()
        return _list_ids()

    @override
    def require_installed(self, video: bool = False) -> None:
        require_module("gymnasium", "gymnasium")
        if video:
            require_module("av", "gymnasium")
            if not os.environ.get("DISPLAY"):
                os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it at its import

    @override
    def resolve_task(self, name: str) -> str:
        known = self.list_tasks()
        task_id = find_latest_version(name.rpartition(":")[2], known)
        if task_id is None:
            raise make_unknown_task("task", name, known)
        return task_id

    @override
    def load_task(self, request: TaskRequest) -> HostTask:
        return GymnasiumTask(request)


def _find_camera(env: gymnasium.Env) -> str | None:
    """Return the name of the camera that follows a MuJoCo robot, because the robot would leave the picture of the default camera.

    None if the model has no such camera, or the task's class does not take the name of a camera.
    """
    parameters = inspect.signature(type(env.unwrapped)).parameters.values()
    if not any(p.name == "camera_name" or p.kind == p.VAR_KEYWORD for p in parameters):
        return None
    model: Any = getattr(env.unwrapped, "model", None)
    names = [model.camera(i).name for i in range(getattr(model, "ncam", 0))]
    return TRACKING_CAMERA if TRACKING_CAMERA in names else None


def _list_ids() -> Collection[str]:
    """Return the ids in Gymnasium's registry except those of Isaac Lab, whose environments only its own launcher can start.

    If Gymnasium is not imported yet and has no plugins, this does not import it: the ids are read from its source.
    """
    if "gymnasium" not in sys.modules and not _has_plugins():
        return _read_ids()
    import gymnasium

    return [name for name, spec in gymnasium.registry.items() if "env_cfg_entry_point" not in spec.kwargs]


@functools.cache
def _has_plugins() -> bool:
    """Return whether an installed package registers tasks when Gymnasium is imported; search all packages only once."""
    return bool(importlib.metadata.entry_points(group=PLUGINS))


@functools.cache
def _read_ids() -> tuple[str, ...]:
    """Return the ids that Gymnasium's own source registers."""
    package = importlib.util.find_spec("gymnasium")
    assert package is not None and package.origin is not None
    text = (Path(package.origin).parent / "envs" / "__init__.py").read_text(encoding="utf-8")
    return tuple(re.findall(r"""^\s+id=["']([^"']+)["']""", text, re.MULTILINE))


def _parse_overrides(overrides: Collection[str]) -> dict[str, Any]:
    """Return ``env.key=value`` texts as keyword arguments of `gymnasium.make`, without ``physics=gymnasium``.

    Raises UserError for any other text.
    """
    settings: dict[str, Any] = {}
    for text in overrides:
        path, _, value = text.partition("=")
        if path == "physics":  # studies set it in every cell
            if value != GymnasiumTask.physics:
                raise UserError(
                    f"{text}: not available on tasks of {Gymnasium.title}; allowed: {GymnasiumTask.physics}"
                )
            continue
        owner, _, key = path.partition(".")
        if owner != "env" or not key.isidentifier():
            raise UserError(
                f"{text!r}: not available on tasks of {Gymnasium.title}; allowed: env.KEY=VALUE, a keyword argument of gymnasium.make"
            )
        try:
            settings[key] = parse_yaml(value)
        except ReadingError as error:
            raise UserError(f"{path}: {value} is not a value: {error}") from None
    return settings


def _get_package(registered: EnvSpec) -> str:
    """Return the name of the package that a task's class is in."""
    entry = registered.entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
    return module.partition(":")[0].partition(".")[0]


@functools.cache
def _describe_package(package: str) -> str:
    """Return the name and version of the distribution that installs ``package``, such as ``Gymnasium 1.4.0``."""
    if package == "gymnasium":  # the usual case; a search of all installed packages takes a second
        return f"{Gymnasium.title} {importlib.metadata.version(package)}"
    owners = importlib.metadata.packages_distributions().get(package, ())
    if not owners:
        return package or "an unknown package"
    return f"{owners[0]} {importlib.metadata.version(owners[0])}"


HOST = Gymnasium()
