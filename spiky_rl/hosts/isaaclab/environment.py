"""Isaac Lab's tasks: search by name, configuration, simulation, and environments that check for non-finite values."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, override

from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper

from spiky_rl.config.registry import suggest_name
from spiky_rl.hosts.base import OverrideError, SimulationOptions, make_unknown_task
from spiky_rl.hosts.environment import Stopwatch, TimedEnvironment, initialise_warp, log_prints
from spiky_rl.hosts.isaaclab.assets import ROOT, AssetError, explain_missing_asset, is_local_root
from spiky_rl.hosts.isaaclab.broken_worlds import BrokenWorlds
from spiky_rl.hosts.isaaclab.cfg_checks import (
    check_bounds,
    check_delays,
    check_scene,
    check_solver_names,
    get_fields,
)
from spiky_rl.hosts.isaaclab.cfg_fields import apply_override, to_plain_dict
from spiky_rl.hosts.isaaclab.condition_groups import IsaacLabConditionGroups
from spiky_rl.hosts.isaaclab.physics_selection import translate_errors
from spiky_rl.hosts.isaaclab.tasks import get_possible_ids
from spiky_rl.hosts.isaaclab.workflows import Env, EnvCfg
from spiky_rl.hosts.robot_measures import RobotMeasures

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.camera import IsaacLabCamera

logger = logging.getLogger(__name__)

SELECTORS = ("physics", "renderer", "presets")
"""Keys of overrides that select presets of a task, besides ``env.PATH``."""
PACKAGES = {"isaaclab_tasks": ("isaaclab", "Isaac Lab"), "spiky_rl": ("spiky_rl", "spiky_rl")}
"""Distribution and display name by the package that registers a task."""
NOISY_LOGGERS = ("isaaclab_newton.assets", "isaaclab_newton.cloner")
"""Loggers that warn about normal conditions while a scene is built, such as a fixed root."""


def resolve_task(name: str) -> str:
    """Return the registered id of ``name``, with or without Isaac Lab 2's ``-v0``. Raises UnknownTask with the nearest ids.

    ``name`` may begin with the module or ``.py`` file that has registered the task, and a colon.
    """
    import gymnasium

    _register_tasks()
    known = [task for task, spec in gymnasium.registry.items() if "env_cfg_entry_point" in spec.kwargs]
    for task in get_possible_ids(name.rpartition(":")[2]):
        if task in known:
            return task
    raise make_unknown_task("task", name, known)


@functools.cache  # searching for packages with tasks is slow
def _register_tasks() -> None:
    """Register the tasks of Isaac Lab and of every installed extension."""
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import  # registers them
    from isaaclab.cli import load_external_tasks

    load_external_tasks()


def describe_task(task_id: str) -> str:
    """Return a registered task with its package, such as ``Isaac-Ant of Isaac Lab 3.0.0``, or only the id if the package is unknown."""
    import gymnasium

    entry = gymnasium.spec(task_id).kwargs["env_cfg_entry_point"]
    module = entry if isinstance(entry, str) else entry.__module__
    for package, (distribution, title) in PACKAGES.items():
        if module.startswith((f"{package}.", f"{package}:")):
            return f"{task_id} of {title} {importlib.metadata.version(distribution)}"
    return task_id


def load_configs(
    task_id: str, agent_entry: str | None = "rsl_rl_cfg_entry_point", overrides: list[str] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the task's environment config with ``overrides`` applied, and its registered agent config as a plain dict.

    Args:
        task_id: Registered id from `resolve_task`.
        agent_entry: Key of the agent in the task's registration; the dict is empty if the task has no such key.
        overrides: ``physics=NAME``, ``renderer=NAME``, ``presets=NAME``, ``env.PATH=PRESET`` or ``env.PATH=VALUE``.

    Raises:
        OverrideError: Names an unknown key and the nearest valid one.
    """
    import gymnasium
    from isaaclab_tasks.utils import resolve_task_config
    from isaaclab_tasks.utils.hydra import collect_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    entry = agent_entry if agent_entry in gymnasium.spec(task_id).kwargs else None
    with silence_isaaclab():
        presets = collect_presets(load_cfg_from_registry(task_id, "env_cfg_entry_point"), "env")
        choices, values = _split_overrides(overrides or [], presets)
        env_cfg: Any
        try:
            env_cfg, agent_cfg = resolve_task_config(task_id, entry, overrides=choices)
        except ValueError as error:  # Isaac Lab raises it for an unknown preset
            raise OverrideError(str(error)) from error
        agent = to_plain_dict(agent_cfg)
    for key, value in values:
        apply_override(env_cfg, key, value)
    for check in (check_bounds, check_solver_names, check_delays):
        check(env_cfg)
    changed = [key.removeprefix("env.scene.") for key, _ in values if key.startswith("env.scene.")]
    check_scene(env_cfg, [name for name in changed if getattr(env_cfg.scene, name, "") is None])
    return env_cfg, agent


def _split_overrides(
    overrides: Sequence[str], presets: Mapping[str, Mapping[str, object]]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split ``overrides`` into choices of presets (texts) and values of fields (pairs of key and value).

    ``presets`` holds the presets of each path. Raises OverrideError for an unknown key or preset.
    """
    choices, values = [], []
    for text in overrides:
        key, _, value = text.partition("=")
        if not value or not (key in SELECTORS or key.startswith("env.")):
            allowed = "".join(f"{selector}=NAME, " for selector in SELECTORS)
            raise OverrideError(f"override {text!r}: expected {allowed}or env.KEY=VALUE")
        if key in SELECTORS or value in presets.get(key, ()):
            choices.append(text)
        elif key in presets and value.isidentifier():
            names = presets[key]
            raise OverrideError(
                f"{text}: {key} has the presets {', '.join(names)}{suggest_name(value, names)}"
            )
        else:
            values.append((key, value))
    return choices, values


def require_files(env_cfg: EnvCfg) -> None:
    """Raise AssetError, before a simulator starts, if the file of an asset in ``env_cfg`` is missing in the local assets."""
    root = os.environ.get(ROOT, "")
    if not is_local_root(root):
        return
    for path in _iterate_asset_files(env_cfg):
        if path.startswith(root) and not os.path.isfile(path):
            raise AssetError(explain_missing_asset(FileNotFoundError(path)) or path)


def _iterate_asset_files(env_cfg: EnvCfg) -> Iterator[str]:
    """Yield the USD files of the assets in ``env_cfg``."""
    from isaaclab.assets import AssetBaseCfg

    visited = set[int]()
    # configurations to visit, and whether each is part of an asset; the files of markers, which are rarely drawn, may be missing
    to_visit: list[tuple[object, bool]] = [(env_cfg, False)]
    while to_visit:
        node, in_asset = to_visit.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        in_asset = in_asset or isinstance(node, AssetBaseCfg)
        fields = get_fields(node)
        if in_asset and "usd_path" in fields:
            yield str(fields["usd_path"])
        children = node if isinstance(node, (list, tuple)) else fields.values()
        to_visit += [(child, in_asset) for child in children]


@contextlib.contextmanager
def open_simulation(
    env_cfg: EnvCfg, task_id: str, device: str, num_envs: int, options: SimulationOptions
) -> Iterator[Any]:
    """Open the task's gym environment and close it at the end. Isaac Sim's app (Kit) starts only if the physics needs it.

    Args:
        env_cfg: The task's configuration; device, number of environments and seed are set in it.
        task_id: Registered id from `resolve_task`.
        device: Device of the simulation.
        num_envs: Number of environments, B.
        options: All options but ``clip_actions``, which is one of `IsaacLabVecEnv`.

    Raises:
        AssetError: A robot's file is not available.
    """
    with silence_isaaclab():
        initialise_warp()  # before importing Isaac Lab's environments, which also initialise Warp

    from argparse import Namespace

    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab.envs import DirectMARLEnvCfg, multi_agent_to_single_agent
    from isaaclab_rl.entrypoints.common import close_env, request_determinism, validate_distributed_device

    if options.video:
        from spiky_rl.hosts.isaaclab.camera import setup_graphics

        setup_graphics()
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, options.seed
    arguments = Namespace(device=device, distributed=options.distributed, deterministic=options.deterministic)
    if options.visualizers is not None:
        from spiky_rl.hosts.isaaclab.live.setup import add_visualizers

        add_visualizers(env_cfg, options.visualizers)
        arguments.visualizer, arguments.max_visible_envs = list(options.visualizers), options.visible_envs
    validate_distributed_device(arguments)
    launched = contextlib.ExitStack()
    with silence_isaaclab():
        launched.enter_context(launch_simulation(env_cfg, arguments))
    env: Any = None
    try:
        with translate_errors():
            request_determinism(arguments, env_cfg)
            with silence_isaaclab():
                try:
                    env = gymnasium.make(task_id, cfg=env_cfg)
                except FileNotFoundError as error:
                    if remedy := explain_missing_asset(error):
                        raise AssetError(remedy) from error
                    raise
                if isinstance(env_cfg, DirectMARLEnvCfg):
                    env = multi_agent_to_single_agent(env)
            yield env
    finally:
        failure = sys.exc_info()
        if env is not None:
            with silence_isaaclab():
                close_env(env)
        # the launcher prints the traceback of every error; it is needed with Kit alone, which may end the process
        stream = sys.stderr if "omni.kit.app" in sys.modules else io.StringIO()
        with contextlib.redirect_stderr(stream):
            launched.__exit__(*failure)


@contextlib.contextmanager
def silence_isaaclab() -> Iterator[None]:
    """Redirect Isaac Lab's prints to the debug log, suppress warnings about normal conditions, and restore the log levels at the end."""
    root = logging.getLogger()
    noisy = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [(item, item.level) for item in (root, *root.handlers, *noisy)]
    for item in noisy:
        item.setLevel(logging.ERROR)
    with log_prints("Isaac Lab"):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, module=r"(isaaclab|newton|warp)")
                yield
        finally:
            for item, level in levels:
                item.setLevel(level)


class IsaacLabVecEnv(TimedEnvironment, RslRlVecEnvWrapper):
    """rsl_rl environment of Isaac Lab, with a stopwatch and a check for non-finite values."""

    condition_groups_class = IsaacLabConditionGroups

    def __init__(self, env: Env, clip_actions: float | None = None) -> None:
        with silence_isaaclab():
            super().__init__(env, clip_actions)  # type: ignore[arg-type]  # it also takes Warp environments
        self.stopwatch = Stopwatch(self.device)
        self.broken = BrokenWorlds(self.unwrapped)  # type: ignore[arg-type]

    @property
    def worlds_reset(self) -> int:
        """Number of worlds that were reset so far because their physics broke. Reading it waits for the device."""
        return int(self.broken.count)

    def make_measures(self) -> RobotMeasures:
        """Return the measures of the task's aim per episode, besides the reward."""
        from isaaclab.envs import mdp

        robot = self.unwrapped.scene.articulations.get("robot")
        return RobotMeasures(self.unwrapped, robot, mdp.UniformVelocityCommand, "root_lin_vel_b")

    @property
    def sliding_joints(self) -> frozenset[str] | None:
        """Names of the robots' joints that slide instead of turning; None if the physics is not Newton, which tells them."""
        views = [robot.root_view for robot in self.unwrapped.scene.articulations.values()]
        if not all(type(view).__module__.startswith("newton.") for view in views):
            return None
        from newton import JointType

        # types by world, articulation and joint; all worlds are alike
        types = [view.get_attribute("joint_type", view.model).numpy()[0, 0] for view in views]
        return frozenset(
            name
            for view, kinds in zip(views, types, strict=True)
            for name, kind in zip(view.joint_names, kinds, strict=True)
            if kind == JointType.PRISMATIC
        )

    def open_camera(self) -> IsaacLabCamera:
        """Return a camera on environment 0."""
        from spiky_rl.hosts.isaaclab.camera import IsaacLabCamera

        return IsaacLabCamera(self)

    @override
    def get_live_views(self) -> Sequence[Any]:
        from spiky_rl.hosts.isaaclab.live.setup import get_visualizers

        return get_visualizers(self)

    @override
    def set_default_camera(self, follows: bool = False) -> None:
        from spiky_rl.hosts.isaaclab.live.setup import set_default_camera

        set_default_camera(self, follows)

    @staticmethod
    def make_deterministic(seed: int) -> None:
        """Use torch's deterministic kernels and seed all generators. Call it after the networks are initialised."""
        from isaaclab.utils.seed import configure_seed

        configure_seed(seed, torch_deterministic=True)

    @override
    def format_settings(self) -> str:
        sim = self.unwrapped.cfg.sim
        gravity = ", ".join(f"{value:g}" for value in sim.gravity)
        return f"env.sim.dt={sim.dt:.6g} and env.sim.gravity=[{gravity}]"
