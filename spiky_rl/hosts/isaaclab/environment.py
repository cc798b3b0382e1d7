"""Isaac Lab's tasks: found by name, configured, simulated without Kit, and watched for numbers that are none."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import io
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Any

import torch
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from spiky_rl.hosts.isaaclab.assets import AssetError, missing_asset
from spiky_rl.registry import nearest

logger = logging.getLogger(__name__)

SELECTORS = ("physics", "renderer", "presets")
"""Overrides that choose among the variants that a task declares."""
CHATTY = ("isaaclab_newton.assets", "isaaclab_newton.cloner")
"""Loggers that warn of normal things while a scene is built, such as a root that cannot move."""


class UnknownTask(ValueError):
    """A task that no installed package registers."""


class NonFiniteError(RuntimeError):
    """The simulation produced an observation or a reward that is no number."""


def resolve_task(name: str) -> str:
    """The registered id of ``name``; the ``-v0`` of Isaac Lab 2 may be there. Raises UnknownTask with the nearest ids."""
    import gymnasium
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import
    from isaaclab.cli import load_external_tasks

    load_external_tasks()
    known = [task for task, spec in gymnasium.registry.items() if "env_cfg_entry_point" in (spec.kwargs or {})]
    for task in (name, re.sub(r"-v\d+$", "", name)):
        if task in known:
            return task
    close = difflib.get_close_matches(re.sub(r"-v\d+$", "", name), known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "list the tasks with `isaaclab list_envs`"
    raise UnknownTask(f"task: {name!r} is not registered; {hint}")


def load_configs(
    task_id: str, agent_entry: str | None = "rsl_rl_cfg_entry_point", overrides: list[str] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The task's environment config with ``overrides`` applied, and its registered agent config as a plain dict.

    Overrides read ``physics=NAME``, ``renderer=NAME``, ``presets=NAME``, ``env.PATH=PRESET`` or ``env.PATH=VALUE``. The dict
    is empty where the task registers no such agent. Raises ValueError that names an unknown key and the nearest valid one.
    """
    import gymnasium
    from isaaclab_tasks.utils import resolve_task_config
    from isaaclab_tasks.utils.hydra import collect_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    kwargs = gymnasium.spec(task_id).kwargs
    if agent_entry not in kwargs:
        agent_entry = None
    with quiet():
        presets = collect_presets(load_cfg_from_registry(task_id, "env_cfg_entry_point"), "env")
        choices, values = [], []
        for override in overrides or []:
            key, equals, value = override.partition("=")
            if not equals or not (key in SELECTORS or key.startswith("env.")):
                allowed = [f"{selector}=NAME" for selector in SELECTORS]
                raise ValueError(f"override {override!r}: expected {', '.join(allowed)} or env.KEY=VALUE")
            chosen = key in SELECTORS or value in presets.get(key, ())
            (choices if chosen else values).append(override)
        env_cfg, agent_cfg = resolve_task_config(task_id, agent_entry, overrides=choices)
        agent = plain_agent(agent_cfg)
    for override in values:
        override_value(env_cfg, *override.split("=", 1))
    return env_cfg, agent


def plain_agent(agent_cfg: Any) -> dict[str, Any]:
    """A registered agent config as nested dicts, brought up to the installed rsl_rl, without the fields left open."""
    from isaaclab_rl.rsl_rl import handle_deprecated_rsl_rl_cfg

    if agent_cfg is None or isinstance(agent_cfg, Mapping):
        return dict(agent_cfg or {})
    agent_cfg = handle_deprecated_rsl_rl_cfg(agent_cfg, importlib.metadata.version("rsl-rl-lib"))
    return filled(agent_cfg, agent_cfg.to_dict())


def filled(cfg: Any, node: Any) -> Any:
    """``node``, the nested dict of ``cfg``, without what ``cfg`` leaves open (Isaac Lab writes that as an empty dict)."""
    if not hasattr(cfg, "__dataclass_fields__"):
        return node
    values = {key: getattr(cfg, key, None) for key in node}
    return {key: filled(value, node[key]) for key, value in values.items() if not isinstance(value, type(MISSING))}


def override_value(env_cfg: Any, path: str, text: str) -> None:
    """Set the ``env.*`` field at ``path``. Raises ValueError for a field that is not there or a value of another type."""
    from isaaclab_tasks.utils.hydra import _parse_val as parse

    node, *parts = env_cfg, *path.split(".")[1:]
    for depth, part in enumerate(parts, 2):
        keys = list(node) if isinstance(node, Mapping) else list(getattr(node, "__dataclass_fields__", ()))
        if part not in keys:
            parent = ".".join(path.split(".")[: depth - 1])
            hint = nearest(part, keys) or f"; {parent} has {', '.join(keys) or 'no fields'}"
            raise ValueError(f"{path}: {parent} has no field {part!r}{hint}")
        owner, node = node, node[part] if isinstance(node, Mapping) else getattr(node, part)
    value, leaf = parse(text), parts[-1]
    if isinstance(node, Mapping) or hasattr(node, "__dataclass_fields__"):
        keys = list(node) if isinstance(node, Mapping) else list(node.__dataclass_fields__)
        raise ValueError(f"{path}: is a group; set one of its fields: {', '.join(keys)}")
    declared = "" if isinstance(owner, Mapping) else str(owner.__dataclass_fields__[leaf].type)
    if not fits(value, node, declared):
        raise ValueError(f"{path}: expected {declared or type(node).__name__} such as {node!r}, got {text}")
    if isinstance(node, tuple | float):
        value = type(node)(value) if value is not None and not isinstance(value, str) else value
    if isinstance(owner, Mapping):
        owner[leaf] = value
    else:
        setattr(owner, leaf, value)


def fits(value: Any, current: Any, declared: str) -> bool:
    """Whether ``value`` may replace ``current``: the same kind, or one that the field's annotation names."""
    if current is None or type(value).__name__ in re.findall(r"\w+", declared.replace("NoneType", "None")):
        return True
    if isinstance(value, bool) or isinstance(current, bool):
        return isinstance(value, bool) and isinstance(current, bool)
    kinds = {float: (int, float), tuple: (tuple, list), list: (tuple, list)}
    return isinstance(value, kinds.get(type(current), type(current)) if not isinstance(current, str) else str)


@contextlib.contextmanager
def simulation(
    env_cfg: Any,
    *,
    task_id: str,
    device: str,
    num_envs: int,
    seed: int,
    video: bool = False,
    deterministic: bool = False,
    distributed: bool = False,
) -> Iterator[Any]:
    """The task's gym environment, without Kit where its physics allows that; closed at the end.

    ``video`` readies the process for a Camera. Raises AssetError where a robot cannot be fetched.
    """
    from argparse import Namespace

    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab.envs import DirectMARLEnvCfg
    from isaaclab_rl.entrypoints.common import close_env, request_determinism, validate_distributed_device

    if video:
        from spiky_rl.hosts.isaaclab.camera import require_graphics

        require_graphics()
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, seed
    arguments = Namespace(device=device, distributed=distributed, deterministic=deterministic)
    validate_distributed_device(arguments)
    launched = launch_simulation(env_cfg, arguments)
    with keep_log_levels():
        launched.__enter__()
    env = None
    try:
        request_determinism(arguments, env_cfg)
        with quiet():
            try:
                env = gymnasium.make(task_id, cfg=env_cfg)
            except FileNotFoundError as error:
                if (remedy := missing_asset(error)) is None:
                    raise
                raise AssetError(remedy) from error
            if isinstance(env_cfg, DirectMARLEnvCfg):
                from isaaclab.envs import multi_agent_to_single_agent

                env = multi_agent_to_single_agent(env.unwrapped)
        yield env
    finally:
        failure = sys.exc_info()
        with quiet():
            if env is not None:
                close_env(env)
        # The launcher prints the traceback of what it lets through; only Kit, which may end the process, needs that.
        hushed = io.StringIO() if "omni.kit.app" not in sys.modules else sys.stderr
        with contextlib.redirect_stderr(hushed):
            launched.__exit__(*failure)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what Isaac Lab prints to the debug log, and hold back its warnings of normal things. Errors pass."""
    printed = io.StringIO()
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(isaaclab|newton|warp)")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for line in printed.getvalue().splitlines():
            logger.debug("Isaac Lab: %s", line)


@contextlib.contextmanager
def keep_log_levels() -> Iterator[None]:
    """Undo what the launcher does to the levels of everybody's log handlers."""
    root = logging.getLogger()
    levels = [(item, item.level) for item in (root, *root.handlers)]
    yield
    for item, level in levels:
        item.setLevel(level)


class TimedVecEnv(RslRlVecEnvWrapper):
    """rsl_rl's view of an environment, with the time that it takes and a check of what it returns."""

    def __init__(self, env: Any, clip_actions: float | None = None):
        with quiet():
            super().__init__(env, clip_actions)
        self.seconds_simulation = 0.0
        """Wall seconds spent in step() so far."""

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """One environment step. Raises NonFiniteError that names the step, the term and how many environments it hit."""
        start = time.perf_counter()
        observations, rewards, dones, extras = super().step(actions)
        leaves = dict(observations.items(include_nested=True, leaves_only=True))
        # One answer from the device for all of them, which also makes the time above true.
        finite = torch.stack([values.isfinite().all() for values in (rewards, *leaves.values())])
        if not finite.all():
            self.explain(rewards, leaves)
        self.seconds_simulation += time.perf_counter() - start
        return observations, rewards, dones, extras

    def explain(self, rewards: torch.Tensor, leaves: Mapping[Any, torch.Tensor]) -> None:
        """Raise NonFiniteError for the terms that are no number."""
        bad = ~rewards.isfinite()
        faults = [f"reward {name}" for name in self.reward_terms(bad)]
        for key, values in leaves.items():
            for name, part in self.terms(key, values):
                broken = ~part.isfinite().flatten(1).all(1)
                bad = bad | broken
                faults += [f"observation {name}"] if broken.any() else []
        raise NonFiniteError(
            f"environment step {self.unwrapped.common_step_counter}: {', '.join(faults)} not finite in "
            f"{int(bad.sum())} of {self.num_envs} environments, the first is {int(bad.nonzero()[0])}"
        )

    def terms(self, key: Any, values: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """The named parts of an observation [B, ...]: its columns by term where the task's manager knows them."""
        name = ".".join(key) if isinstance(key, tuple) else key
        manager = getattr(self.unwrapped, "observation_manager", None)
        if manager is None or values.ndim != 2 or not manager.group_obs_concatenate.get(name, False):
            return [(name, values)]
        widths = [math.prod(shape) for shape in manager.group_obs_term_dim[name]]
        named = zip(manager.active_terms[name], values.split(widths, dim=1), strict=True)
        return [(f"{name}.{term}", part) for term, part in named]

    def reward_terms(self, bad: torch.Tensor) -> list[str]:
        """The reward terms that are no number in the first of the ``bad`` environments [B]."""
        manager = getattr(self.unwrapped, "reward_manager", None)
        if not bad.any():
            return []
        if manager is None:
            return ["total"]
        terms = manager.get_active_iterable_terms(int(bad.nonzero()[0]))
        return [name for name, values in terms if not all(map(math.isfinite, values))]
