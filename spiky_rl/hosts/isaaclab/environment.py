"""Isaac Lab's tasks: found by name, configured, simulated without Kit, and watched for numbers that are none."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import io
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import torch
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from spiky_rl.config.registry import RegistryError, UserError, load_module, nearest
from spiky_rl.hosts.isaaclab.assets import ROOT, AssetError, is_derived, missing_asset
from spiky_rl.hosts.isaaclab.limits import check_numbers, check_times
from spiky_rl.hosts.isaaclab.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

SELECTORS = ("physics", "renderer", "presets")
"""Overrides that choose among the variants that a task declares."""
EXPLODED = 1e5
"""An action that no learner means: Isaac Lab's are numbers near one, scaled by the task."""
CHATTY = ("isaaclab_newton.assets", "isaaclab_newton.cloner")
"""Loggers that warn of normal things while a scene is built, such as a root that cannot move."""


class OverrideError(UserError):
    """An override that names no field of the environment, or a value that it cannot take."""


class UnknownTask(UserError):
    """A task that no installed package registers."""


class NonFiniteError(RuntimeError):
    """The simulation produced an observation or a reward that is no number, or was given such an action."""


def resolve_task(name: str) -> str:
    """The registered id of ``name``; the ``-v0`` of Isaac Lab 2 may be there. Raises UnknownTask with the nearest ids.

    Before a colon may stand the module or the ``.py`` file that registers the task.
    """
    import gymnasium
    import isaaclab_tasks  # noqa: F401  # pylint: disable=unused-import  # registers the tasks
    from isaaclab.cli import load_external_tasks

    load_external_tasks()
    module, _, stem = name.rpartition(":")
    if module:
        try:
            load_module(module)
        except RegistryError as error:
            raise UnknownTask(f"task: {name!r}: {error}") from error.__cause__
    known = [task for task, spec in gymnasium.registry.items() if "env_cfg_entry_point" in spec.kwargs]
    bare = re.sub(r"-v\d+$", "", stem)
    for task in (stem, bare):
        if task in known:
            return task
    close = difflib.get_close_matches(bare, known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else "list the tasks with `isaaclab list_envs`"
    raise UnknownTask(f"task: {name!r} is not registered; {hint}")


def load_configs(
    task_id: str, agent_entry: str | None = "rsl_rl_cfg_entry_point", overrides: list[str] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The task's environment config with ``overrides`` applied, and its registered agent config as a plain dict.

    Overrides read ``physics=NAME``, ``renderer=NAME``, ``presets=NAME``, ``env.PATH=PRESET`` or ``env.PATH=VALUE``. The dict
    is empty where the task registers no such agent. Raises OverrideError that names an unknown key and the nearest valid one.
    """
    import gymnasium
    from isaaclab_tasks.utils import resolve_task_config
    from isaaclab_tasks.utils.hydra import collect_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    entry = agent_entry if agent_entry in gymnasium.spec(task_id).kwargs else None
    with quiet():
        presets = collect_presets(load_cfg_from_registry(task_id, "env_cfg_entry_point"), "env")
        choices, values = [], []
        for override in overrides or []:
            key, _, value = override.partition("=")
            if not value or not (key in SELECTORS or key.startswith("env.")):
                allowed = "".join(f"{selector}=NAME, " for selector in SELECTORS)
                raise OverrideError(f"override {override!r}: expected {allowed}or env.KEY=VALUE")
            if key in SELECTORS or value in presets.get(key, ()):
                choices.append(override)
            elif key in presets and value.isidentifier():
                raise OverrideError(
                    f"{override}: {key} has the presets {', '.join(presets[key])}{nearest(value, presets[key])}"
                )
            else:
                values.append((key, value))
        try:
            env_cfg, agent_cfg = resolve_task_config(task_id, entry, overrides=choices)
        except ValueError as error:  # Isaac Lab's word for a preset that the task does not have
            raise OverrideError(str(error)) from error
        agent = plain_agent(agent_cfg)
    for key, value in values:
        override_value(env_cfg, key, value)
    check_times(env_cfg)
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
    values = {key: value for key, value in fields(cfg).items() if not isinstance(value, type(MISSING))}
    return {key: filled(value, node[key]) for key, value in values.items() if key in node}


def fields(node: Any) -> dict[str, Any]:
    """The fields of a config or a dict; a value has none."""
    if isinstance(node, Mapping):
        return dict(node)
    return dict(vars(node)) if hasattr(node, "__dataclass_fields__") else {}


def override_value(env_cfg: Any, path: str, text: str) -> None:
    """Set the ``env.*`` field at ``path``; ``none`` switches a manager's term off.

    Raises OverrideError for a field that is not there or a value of another type.
    """
    from isaaclab_tasks.utils.hydra import _parse_val as parse

    owner, node, parent, leaf = env_cfg, env_cfg, "", "env"
    for part in path.split(".")[1:]:
        owner, parent, leaf = node, f"{parent}.{leaf}".lstrip("."), part
        if part not in fields(node):
            hint = nearest(part, fields(node)) or f"; it has {', '.join(fields(node)) or 'none'}"
            raise OverrideError(f"{path}: {parent} has no field {part!r}{hint}")
        node = fields(node)[part]
    value, switched_off = parse(text), parse(text) is None and parent != "env"
    if fields(node) and not switched_off:
        raise OverrideError(f"{path}: is a group; set one of its fields: {', '.join(fields(node))}")
    declared = getattr(getattr(type(owner), "__dataclass_fields__", {}).get(leaf), "type", "")
    if not fields(node) and not fits(value, node, str(declared)):
        raise OverrideError(
            f"{path}: expected {declared or type(node).__name__} such as {node!r}, got {text}"
        )
    check_numbers(path, value, node)
    if (type(node), type(value)) in ((float, int), (tuple, list)):
        value = type(node)(value)
    if isinstance(owner, dict):
        owner[leaf] = value
    else:
        setattr(owner, leaf, value)


def fits(value: Any, current: Any, declared: str) -> bool:
    """Whether ``value`` may replace ``current``: the same kind, or one that the field's annotation names."""
    # what stands inside of dict[str, float] is not what the field itself may be
    outside = re.sub(r"\b(dict|list|tuple|set|type|Sequence|Mapping)\[[^\]]*\]", r"\1", declared)
    named = re.findall(r"\w+", outside) + ["NoneType"] * ("None" in outside)
    if current is None or type(value).__name__ in named:
        return True
    kinds = {bool: {bool}, int: {int}, float: {int, float}, tuple: {tuple, list}, list: {tuple, list}}
    return type(value) in kinds.get(type(current), {str} if isinstance(current, str) else {type(current)})


def require_files(env_cfg: Any) -> None:
    """Raise AssetError, before a simulator starts, for a robot or a thing whose file the local assets do not have."""
    from isaaclab.assets import AssetBaseCfg

    root, nodes, seen = os.environ.get(ROOT, ""), [(env_cfg, False)], set[int]()
    while is_derived(root) and nodes:
        node, is_spawned = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        is_spawned = is_spawned or isinstance(node, AssetBaseCfg)  # not a marker, which is seldom drawn
        parts: dict[Any, Any] = dict(enumerate(node)) if isinstance(node, (list, tuple)) else fields(node)
        path = str(parts.get("usd_path")) if is_spawned else ""
        if path.startswith(root) and not os.path.isfile(path):
            raise AssetError(missing_asset(FileNotFoundError(path)) or path)
        nodes += [(part, is_spawned) for part in parts.values()]


def write_config(path: Path, config: Any) -> None:
    """Write a configuration as Isaac Lab's own commands do."""
    from isaaclab.utils.io import dump_yaml

    dump_yaml(str(path), config)


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
    visualizers: Sequence[str] | None = None,
    visible: int | None = None,
) -> Iterator[Any]:
    """The task's gym environment, without Kit where its physics allows that; closed at the end.

    ``video`` readies the process for a Camera. ``visualizers``: names of Isaac Lab's ``--visualizer``, none for an empty list,
    and those that the task itself has for None; ``visible``: how many environments they show. Raises AssetError where a robot
    cannot be fetched.
    """
    from argparse import Namespace

    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab.envs import DirectMARLEnvCfg, multi_agent_to_single_agent
    from isaaclab_rl.entrypoints.common import close_env, request_determinism, validate_distributed_device

    if video:
        from spiky_rl.hosts.isaaclab.camera import require_graphics

        require_graphics()
    env_cfg.scene.num_envs, env_cfg.sim.device, env_cfg.seed = num_envs, device, seed
    arguments = Namespace(device=device, distributed=distributed, deterministic=deterministic)
    if visualizers is not None:
        from spiky_rl.hosts.isaaclab.live.choice import configure

        configure(env_cfg, visualizers)
        arguments.visualizer, arguments.max_visible_envs = list(visualizers), visible
    validate_distributed_device(arguments)
    launched = contextlib.ExitStack()
    with quiet():
        launched.enter_context(launch_simulation(env_cfg, arguments))
    env: Any = None
    try:
        request_determinism(arguments, env_cfg)
        with quiet():
            env = gymnasium.make(task_id, cfg=env_cfg)
            if isinstance(env_cfg, DirectMARLEnvCfg):
                env = multi_agent_to_single_agent(env)
        yield env
    except FileNotFoundError as error:
        if (remedy := missing_asset(error)) is None:
            raise
        raise AssetError(remedy) from error
    finally:
        failure = sys.exc_info()
        if env is not None:
            with quiet():
                close_env(env)
        # The launcher prints the traceback of what it lets through; only Kit, which may end the process, needs that.
        hushed = sys.stderr if "omni.kit.app" in sys.modules else io.StringIO()
        with contextlib.redirect_stderr(hushed):
            launched.__exit__(*failure)


@contextlib.contextmanager
def torch_settings(device: str, library: str) -> Iterator[None]:
    """torch's switches as Isaac Lab's own training with this library sets them, put back afterwards.

    On a CUDA device its rsl_rl training multiplies in TF32 and looks for the fastest convolutions; its skrl training sets none.
    """
    if torch.device(device).type != "cuda" or library != "rsl_rl":
        yield
        return
    from isaaclab_rl.entrypoints.common import scoped_torch_backend_flags

    with scoped_torch_backend_flags(
        cuda_matmul_allow_tf32=True, cudnn_allow_tf32=True, cudnn_deterministic=False, cudnn_benchmark=True
    ):
        yield


def make_deterministic(seed: int) -> None:
    """Torch's deterministic kernels, and all seeds anew; call it once the networks are made, which it would disturb."""
    from isaaclab.utils.seed import configure_seed

    configure_seed(seed, torch_deterministic=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what Isaac Lab prints to the debug log, hold back its warnings of normal things, keep our log levels. Errors pass."""
    root, chatty = logging.getLogger(), [logging.getLogger(name) for name in CHATTY]
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

    def __init__(self, env: Any, clip_actions: float | None = None) -> None:
        with quiet():
            super().__init__(env, clip_actions)
        self.stopwatch = Stopwatch(self.device)

    @property
    def seconds_simulation(self) -> float:
        """Seconds spent in step() so far."""
        return self.stopwatch.seconds

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """One environment step. Raises NonFiniteError that names the step, the term and how many environments it hit."""
        self.stopwatch.start()
        observations, rewards, dones, extras = super().step(actions)
        leaves: dict[Any, Any] = dict(observations.items(include_nested=True, leaves_only=True))
        # one answer from the device for all of them
        finite = torch.stack([values.isfinite().all() for values in (actions, rewards, *leaves.values())])
        if not finite.all():
            self.explain(actions, rewards, leaves)
        self.stopwatch.stop()
        return observations, rewards, dones, extras

    def explain(
        self, actions: torch.Tensor, rewards: torch.Tensor, leaves: Mapping[Any, torch.Tensor]
    ) -> None:
        """Raise NonFiniteError for the terms that are no number, or for the actions, if they were none before."""
        bad = ~actions.isfinite().flatten(1).all(1)
        faults = ["actions"] if bad.any() else []
        if not faults:
            bad = ~rewards.isfinite()
            faults = [f"reward {name}" for name in self.reward_terms(bad)]
            for key, values in leaves.items():
                for name, part in self.terms(".".join(key) if isinstance(key, tuple) else key, values):
                    broken = ~part.isfinite().flatten(1).all(1)
                    bad = bad | broken
                    faults += [f"observation {name}"] if broken.any() else []
        step, hit = self.unwrapped.common_step_counter, bad.nonzero().flatten().tolist()
        where = f"in {len(hit)} of {self.num_envs} environments, the first is {hit[0]}"
        what = f"{', '.join(faults)} not finite {where}"
        largest = float(actions.nan_to_num(0.0).abs().max())
        if faults == ["actions"] or largest > EXPLODED:  # no simulation can follow
            what = f"the policy has exploded, lower agent.algorithm.learning_rate: {what}"
        raise NonFiniteError(f"environment step {step}: {what}; the largest action was {largest:.3g}")

    def terms(self, name: str, values: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """The named parts of an observation [B, ...]: its columns by term where the task's manager knows them."""
        manager = getattr(self.unwrapped, "observation_manager", None)
        if manager is None or values.ndim != 2 or not manager.group_obs_concatenate.get(name, False):
            return [(name, values)]
        widths = [math.prod(shape) for shape in manager.group_obs_term_dim[name]]
        names = [f"{name}.{term}" for term in manager.active_terms[name]]
        return list(zip(names, values.split(widths, dim=1), strict=True))

    def reward_terms(self, bad: torch.Tensor) -> list[str]:
        """The reward terms that are no number in the first of the ``bad`` environments [B]; their total where all are."""
        manager = getattr(self.unwrapped, "reward_manager", None)
        if manager is None or not bad.any():
            return ["total"] if bad.any() else []
        terms = manager.get_active_iterable_terms(int(bad.nonzero()[0]))
        return [name for name, values in terms if not all(map(math.isfinite, values))] or ["total"]
