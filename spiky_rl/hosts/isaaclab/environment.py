"""Isaac Lab's tasks: found by name, configured, simulated without Kit, and watched for numbers that are none."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import torch
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from spiky_rl.config.registry import RegistryError, load_module, suggest_name
from spiky_rl.hosts.base import NonFiniteError, UnknownTask
from spiky_rl.hosts.isaaclab.assets import ROOT, AssetError, explain_missing_asset, is_local_root
from spiky_rl.hosts.isaaclab.broken_worlds import BrokenWorlds
from spiky_rl.hosts.isaaclab.cfg_checks import check_durations, check_scene
from spiky_rl.hosts.isaaclab.cfg_fields import OverrideError, apply_override, get_fields, to_plain_dict
from spiky_rl.hosts.isaaclab.measures import EpisodeMeasures
from spiky_rl.hosts.isaaclab.nonfinite import Leaves, describe_blow_up, explain, leaves_of
from spiky_rl.hosts.isaaclab.physics_selection import translate_errors
from spiky_rl.hosts.isaaclab.seeding import seed_torch
from spiky_rl.hosts.isaaclab.stopwatch import Stopwatch
from spiky_rl.hosts.isaaclab.tasks import unknown_task, without_version
from spiky_rl.hosts.isaaclab.workflows import Env, EnvCfg

if TYPE_CHECKING:
    from spiky_rl.hosts.condition_groups import ConditionGroups
    from spiky_rl.hosts.isaaclab.camera import Camera

logger = logging.getLogger(__name__)

SELECTORS = ("physics", "renderer", "presets")
"""Overrides that choose among the variants that a task declares."""
PACKAGES = {"isaaclab_tasks": ("isaaclab", "Isaac Lab"), "spiky_rl": ("spiky_rl", "spiky_rl")}
"""Packages of tasks -> the distribution that has their version, and its name."""
NOISY_LOGGERS = ("isaaclab_newton.assets", "isaaclab_newton.cloner")
"""Loggers that warn of normal things while a scene is built, such as a root that cannot move."""


NO_GPU = "Could not find or load the NVIDIA CUDA driver"
"""Warning of Warp that it will compute on the CPU."""


def resolve_task(name: str) -> str:
    """The registered id of ``name``; the ``-v0`` of Isaac Lab 2 may be there. Raises UnknownTask with the nearest ids.

    Before a colon may stand the module or the ``.py`` file that registers the task.
    """
    import gymnasium

    _register_tasks()
    module, _, stem = name.rpartition(":")
    if module:
        try:
            load_module(module)
        except RegistryError as error:
            raise UnknownTask(f"task: {name!r}: {error}") from error.__cause__
    known = [task for task, spec in gymnasium.registry.items() if "env_cfg_entry_point" in spec.kwargs]
    for task in (stem, without_version(stem)):
        if task in known:
            return task
    raise unknown_task("task", name, known)


@functools.cache  # looking for packages with tasks takes as long as merging an agent
def _register_tasks() -> None:
    """Let Isaac Lab, and every installed package that extends it, register its tasks."""
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import  # registers them
    from isaaclab.cli import load_external_tasks

    load_external_tasks()


def describe_task(task_id: str) -> str:
    """A task with the package that configures it, such as ``Isaac-Ant of Isaac Lab 3.0.0``; by its id alone where that has no version.

    Args:
        task_id: As `resolve_task` gives it.
    """
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
    """The task's environment config with ``overrides`` applied, and its registered agent config as a plain dict.

    Args:
        task_id: As `resolve_task` gives it.
        agent_entry: Name of the entry under which the task registers the agent; the dict is empty where it registers none.
        overrides: ``physics=NAME``, ``renderer=NAME``, ``presets=NAME``, ``env.PATH=PRESET`` or ``env.PATH=VALUE``.

    Raises:
        OverrideError: It names an unknown key and the nearest valid one.
    """
    import gymnasium
    from isaaclab_tasks.utils import resolve_task_config
    from isaaclab_tasks.utils.hydra import collect_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    entry = agent_entry if agent_entry in gymnasium.spec(task_id).kwargs else None
    with silence_isaaclab():
        presets = collect_presets(load_cfg_from_registry(task_id, "env_cfg_entry_point"), "env")
        choices, values = [], []
        for asked in overrides or []:
            key, _, value = asked.partition("=")
            if not value or not (key in SELECTORS or key.startswith("env.")):
                allowed = "".join(f"{selector}=NAME, " for selector in SELECTORS)
                raise OverrideError(f"override {asked!r}: expected {allowed}or env.KEY=VALUE")
            if key in SELECTORS or value in presets.get(key, ()):
                choices.append(asked)
            elif key in presets and value.isidentifier():
                raise OverrideError(
                    f"{asked}: {key} has the presets {', '.join(presets[key])}{suggest_name(value, presets[key])}"
                )
            else:
                values.append((key, value))
        try:
            env_cfg, agent_cfg = resolve_task_config(task_id, entry, overrides=choices)
        except ValueError as error:  # Isaac Lab's word for a preset that the task does not have
            raise OverrideError(str(error)) from error
        agent = to_plain_dict(agent_cfg)
    for key, value in values:
        apply_override(env_cfg, key, value)  # type: ignore[arg-type]
    check_durations(env_cfg)  # type: ignore[arg-type]
    things = (key.removeprefix("env.scene.") for key, _ in values if key.startswith("env.scene."))
    check_scene(env_cfg, {name for name in things if getattr(env_cfg.scene, name, "") is None})  # type: ignore[arg-type]
    return env_cfg, agent


def require_files(env_cfg: EnvCfg) -> None:
    """Raise AssetError, before a simulator starts, for a robot or a thing in ``env_cfg`` whose file the local assets do not have."""
    from isaaclab.assets import AssetBaseCfg

    root, seen = os.environ.get(ROOT, ""), set[int]()
    nodes: list[tuple[object, bool]] = [(env_cfg, False)]
    while is_local_root(root) and nodes:
        node, is_spawned = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        is_spawned = is_spawned or isinstance(node, AssetBaseCfg)  # not a marker, which is seldom drawn
        parts = get_fields(node)
        path = str(parts.get("usd_path")) if is_spawned else ""
        if path.startswith(root) and not os.path.isfile(path):
            raise AssetError(explain_missing_asset(FileNotFoundError(path)) or path)
        nodes += [
            (part, is_spawned) for part in (node if isinstance(node, (list, tuple)) else parts.values())
        ]


def write_config(path: Path, config: object) -> None:
    """Write a configuration, ``config``, to the file ``path`` as Isaac Lab's own commands do."""
    from isaaclab.utils.io import dump_yaml

    dump_yaml(str(path), config)


@contextlib.contextmanager
def open_simulation(
    env_cfg: EnvCfg,
    *,
    task_id: str,
    device: str,
    num_envs: int,
    seed: int,
    video: bool = False,
    deterministic: bool = False,
    distributed: bool = False,
    visualizers: Sequence[str] | None = None,
    visible: int | None = None,
) -> Iterator[Any]:
    """The task's gym environment, without Kit where its physics allows that; closed at the end.

    Args:
        env_cfg: The task's configuration, which takes device, number of environments and seed over.
        task_id: As `resolve_task` gives it.
        device: What simulates.
        num_envs: B.
        seed: Seed of all that the simulation draws.
        video: Ready the process for a `spiky_rl.hosts.isaaclab.camera.Camera`.
        deterministic: The same numbers in every run, where they cost speed.
        distributed: One of several processes, each with a device of its own.
        visualizers: Names of Isaac Lab's ``--visualizer``, none for an empty list; None: those that the task itself has.
        visible: How many environments they show; None: as many as they do by themselves.

    Raises:
        AssetError: A robot cannot be fetched.
    """
    _initialise_warp()  # before Isaac Lab's environments are imported, which do it too

    from argparse import Namespace

    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab.envs import DirectMARLEnvCfg, multi_agent_to_single_agent
    from isaaclab_rl.entrypoints.common import close_env, request_determinism, validate_distributed_device

    if video:
        from spiky_rl.hosts.isaaclab.camera import setup_graphics

        setup_graphics()
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, seed
    arguments = Namespace(device=device, distributed=distributed, deterministic=deterministic)
    if visualizers is not None:
        from spiky_rl.hosts.isaaclab.live.setup import add_visualizers

        add_visualizers(env_cfg, visualizers)
        arguments.visualizer, arguments.max_visible_envs = list(visualizers), visible
    validate_distributed_device(arguments)
    launched = contextlib.ExitStack()
    with silence_isaaclab():
        launched.enter_context(launch_simulation(env_cfg, arguments))
    env: Any = None
    try:
        with translate_errors():
            request_determinism(arguments, env_cfg)
            with silence_isaaclab():
                env = gymnasium.make(task_id, cfg=env_cfg)
                if isinstance(env_cfg, DirectMARLEnvCfg):
                    env = multi_agent_to_single_agent(env)
            yield env
    except FileNotFoundError as error:
        if (remedy := explain_missing_asset(error)) is None:
            raise
        raise AssetError(remedy) from error
    finally:
        failure = sys.exc_info()
        if env is not None:
            with silence_isaaclab():
                close_env(env)
        # The launcher prints the traceback of what it lets through; only Kit, which may end the process, needs that.
        hushed = sys.stderr if "omni.kit.app" in sys.modules else io.StringIO()
        with contextlib.redirect_stderr(hushed):
            launched.__exit__(*failure)


def _initialise_warp() -> None:
    """Initialise Warp; that there is no GPU, which its own code writes to stderr, goes to the debug log."""
    import warp

    kept = os.dup(2)
    with silence_isaaclab(), tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        os.dup2(said.fileno(), 2)
        try:
            warp.init()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        for line in said.read().decode(errors="replace").splitlines():
            logger.log(logging.DEBUG if NO_GPU in line else logging.WARNING, "%s", line)


@contextlib.contextmanager
def silence_isaaclab() -> Iterator[None]:
    """Send what Isaac Lab prints to the debug log, hold back its warnings of normal things, keep our log levels. Errors pass."""
    root, chatty = logging.getLogger(), [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [(item, item.level) for item in (root, *root.handlers, *chatty)]
    for item in chatty:
        item.setLevel(logging.ERROR)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(isaaclab|newton|warp)")
            yield
    finally:
        for item, level in levels:
            item.setLevel(level)
        for line in printed.getvalue().splitlines():
            logger.debug("Isaac Lab: %s", line)


class TimedVecEnv(RslRlVecEnvWrapper):
    """rsl_rl's view of an environment, with the time that it takes and a check of what it returns."""

    checks_finite = True
    """Whether `step` raises for numbers that are none, so that nobody else need look for them."""
    is_trained = True
    """Whether the policy has learned from anything yet; only then an exploding policy is its learner's doing."""
    broken: BrokenWorlds | None = None
    """Worlds that are reset because their physics broke."""
    seen: TensorDict | None = None
    """The observations that the policy saw last."""

    def __init__(self, env: Env, clip_actions: float | None = None) -> None:
        with silence_isaaclab():
            super().__init__(env, clip_actions)  # type: ignore[arg-type]  # it takes those on Warp too
        self.stopwatch = Stopwatch(self.device)
        self.broken = BrokenWorlds(self.unwrapped)  # type: ignore[arg-type]

    @property
    def seconds_simulation(self) -> float:
        """Seconds spent in step() so far."""
        return self.stopwatch.seconds

    @property
    def worlds_reset(self) -> int:
        """How many worlds were reset so far because their physics broke. Waits for the device."""
        return 0 if self.broken is None else int(self.broken.count)

    @property
    def step_dt(self) -> float:
        """Seconds of a control step."""
        return self.unwrapped.step_dt  # type: ignore[attr-defined]

    def restart(self, parts: Sequence[torch.Tensor], seed: int) -> TensorDict:
        """Begin an episode in every environment and return the first observations.

        A task of the direct workflow can only reset all environments at once, so its parts do not start alike.

        Args:
            parts: Indices of environments; those of each part start in the states drawn from ``seed``.
            seed: Seed of the states.
        """
        base: Any = self.unwrapped
        if hasattr(base, "observation_manager"):
            for ids in parts:
                with seed_torch(seed, base.device):
                    base.reset(env_ids=ids.int())
        else:
            with seed_torch(seed, base.device):
                base.reset()
        return self.get_observations()

    def make_measures(self) -> EpisodeMeasures:
        """Return what measures the task's aim in every episode, beside its reward."""
        return EpisodeMeasures(self)  # type: ignore[arg-type]

    def make_condition_groups(
        self,
        names: Sequence[str],
        episodes: int,
        groups: Sequence[str],
        seed: int,
        leg: str = "",
        adapting: bool = False,
    ) -> ConditionGroups:
        """Share the environments out among conditions: see `ConditionGroups`."""
        from spiky_rl.hosts.isaaclab.condition_groups import IsaacLabConditionGroups

        return IsaacLabConditionGroups(self, names, episodes, groups, seed, leg, adapting)

    def open_camera(self) -> Camera:
        """Return a camera that films environment 0."""
        from spiky_rl.hosts.isaaclab.camera import Camera

        return Camera(self)  # type: ignore[arg-type]

    def get_live_views(self) -> Sequence[Any]:
        """Return the live views that can show the spikes of a policy."""
        from spiky_rl.hosts.isaaclab.live.setup import get_visualizers

        return get_visualizers(self)  # type: ignore[arg-type]

    def set_default_camera(self) -> None:
        """Let every live view look at the robot of environment 0."""
        from spiky_rl.hosts.isaaclab.live.setup import set_default_camera

        set_default_camera(self)  # type: ignore[arg-type]

    @staticmethod
    def make_deterministic(seed: int) -> None:
        """Use torch's deterministic kernels and seed all generators. Call it once the networks are built, which it would disturb."""
        from isaaclab.utils.seed import configure_seed

        configure_seed(seed, torch_deterministic=True)

    def set_trained(self, is_trained: bool) -> None:
        """Say whether the policy has learned from anything yet."""
        self.is_trained = is_trained

    @override
    def get_observations(self) -> TensorDict:
        """Current observations by group."""
        self.seen = seen = super().get_observations()
        return seen

    @override
    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """Act for a control step: ``actions`` [B, A] -> observations, rewards [B], ended episodes [B], and extras.

        A world whose physics broke begins a new episode. Raises NonFiniteError where too many do, and where anything else is no
        number: it names the step, the term and how many environments it hit.
        """
        self.stopwatch.start()
        observations, rewards, dones, extras = super().step(actions)
        leaves = leaves_of(observations)
        # one answer from the device for all of them
        finite = [values.isfinite().all() for values in (actions, rewards, *leaves.values())]
        if self.broken is not None:
            finite.append(~self.broken.is_excessive)
        if not torch.stack(finite).all():
            self.raise_non_finite(actions, rewards, leaves)
        self.stopwatch.stop()
        self.seen = observations
        return observations, rewards, dones, extras

    def raise_non_finite(self, actions: torch.Tensor, rewards: torch.Tensor, leaves: Leaves) -> None:
        """Raise NonFiniteError for an action, or for the ``rewards`` [B] and observations ``leaves`` that followed ``actions`` [B, A]."""
        raise NonFiniteError(*explain(self, actions, rewards, leaves))

    def describe_blow_up(self) -> str:
        """A phrase that names the physics of the task where what the policy saw last is of no ordinary size; else ""."""
        return describe_blow_up(self)
