"""Base classes of hosts: simulators with their tasks, environments and abilities.

A host lists and resolves tasks, and returns a `HostTask`, which is configured, checked against an agent, and opened as B environments.
What only some simulators can do (conditions, videos, live views, discrete actions) is an ability; `Host.require_ability` refuses a flag
that needs a missing one. A new host is a package in `spiky_rl.hosts`; no other file knows it by name.
"""

# pylint: disable=unused-argument  # defaults of hosts that lack an ability

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from spiky_rl.config import registry
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.config.spec import flatten, strip_version

if TYPE_CHECKING:
    from spiky_rl.config.spec import AgentSpec, TaskSpec
    from spiky_rl.learners.base import Learner

log = logging.getLogger("spiky_rl")

VIDEO = "video"
"""Ability to record videos of a robot."""
LIVE_VIEW = "live view"
"""Ability to show a run live."""
SECOND_SIMULATION = "second simulation"
"""Ability to simulate a task twice in one process."""
RUN_KEYS = {
    "env.scene.num_envs": "--num_envs, or the task file's num_envs",
    "env.seed": "--seed",
    "env.sim.device": "--device",
}
"""Fields of an environment's configuration that every run sets -> where to set them instead."""
NOMINAL = "nominal"
"""Name of the condition of an undisturbed task, which every host has."""


class UnknownTask(UserError):
    """Error about a task that no host registers."""


class OverrideError(UserError):
    """Error about an override with an unknown field or an invalid value."""


class NonFiniteError(RuntimeError):
    """Error about a non-finite observation, reward or action."""

    def __init__(self, message: str, blames_policy: bool) -> None:
        super().__init__(message)
        self.blames_policy = blames_policy
        """Whether the policy caused it, and not the simulation."""


@dataclass(frozen=True)
class TaskRequest:
    """A request for a host's task."""

    name: str
    """Registered id of the task, from `Host.resolve_task`."""
    learner: Learner
    """The learner; a host may register a configuration per learner."""
    task_spec: TaskSpec | None = None
    """The task's file; None if it has none."""
    overrides: Sequence[str] = ()
    """Overrides of the environment."""
    assets: str = ""
    """Source of the robots in words, from `Host.configure_assets`."""

    def flatten_task_env(self) -> dict[str, Any]:
        """Return dotted path -> value of the task file's ``env``. Raises UserError for one of `RUN_KEYS`, which it could not change."""
        if self.task_spec is None:
            return {}
        values = flatten(self.task_spec.env)
        for path, value in values.items():
            if remedy := RUN_KEYS.get(f"env.{path}"):
                raise UserError(
                    f"tasks/{self.task_spec.name}.yaml: env.{path}: {value!r} given, but every run sets it; use {remedy}"
                )
        return values


@dataclass(frozen=True)
class SimulationOptions:
    """Options of a simulation besides its task."""

    seed: int
    """Seed of all random numbers of the simulation."""
    clip_actions: float | None = None
    """Maximum absolute value of an action; None if actions are not clipped."""
    video: bool = False
    """Whether cameras may be opened."""
    deterministic: bool = False
    """Whether to use deterministic, slower kernels."""
    distributed: bool = False
    """Whether this is one of several processes with a device each."""
    visualizers: Sequence[str] | None = None
    """Names of visualizers; an empty list for no visualizer, None for the task's own."""
    visible_envs: int | None = None
    """Number of environments in the visualizers; None for their default."""


class HostTask(ABC):
    """Configured task of a host, before it is opened."""

    id: str
    """Registered id."""
    description: str
    """The task with its package, such as ``Isaac-Ant of Isaac Lab 3.0.0``."""
    agent_defaults: Mapping[str, Any]
    """The learner's registered configuration of the task, in the layout of agent files."""
    assets: str
    """Source of the robots, in words."""
    physics: str
    """Name of the physics backend. It may change when the environment is opened, see `open`."""
    has_action_bounds: bool = False
    """Whether the environment maps a policy's actions to bounds of the task."""
    replay_num_envs: int | None = None
    """Default number of environments of algorithms that replay transitions; None if they have the default of other algorithms."""

    @abstractmethod
    def adapt_to_agent(self, spec: AgentSpec) -> None:
        """Configure the task for an agent's observation groups and history. Raises UserError if they do not fit."""

    def require_video(self) -> None:
        """Raise UserError if the task is configured so that no videos can be recorded."""

    @abstractmethod
    def get_default_num_envs(self, device: str) -> int:
        """Return the default number of environments on a ``device``, ``cpu`` or ``cuda:N``."""

    def configure(self, device: str, num_envs: int, seed: int) -> None:
        """Set device, number of environments and seed in the host's configuration, which `write_params` writes, and choose the physics backend.

        Raises UserError if the backend is not available.
        """

    def get_physics_on(self, device: str) -> str:
        """Return the name of the configured task's physics backend on another ``device``; by default that of every device."""
        return self.physics

    @abstractmethod
    def open(self, device: str, num_envs: int, options: SimulationOptions) -> AbstractContextManager[Any]:
        """Open the task as B environments, closed at the end, and set `physics` to the backend that really steps them."""

    @abstractmethod
    def write_params(self, folder: Path, runner_cfg: Mapping[str, Any]) -> None:
        """Write the configurations of the environment and of the runner into a ``folder``."""

    def select_conditions(self, names: str, policy: ConditionedPolicy, frozen_by: str = "") -> list[str]:
        """Return the conditions in the comma-separated ``names``; nominal is always the first.

        Args:
            names: Names of conditions and of the sets ``all`` and ``stress``.
            policy: The policy to measure.
            frozen_by: The flag that excludes conditions which change the network, for messages; empty if they are allowed.

        Raises:
            UserError: A condition is unknown, or not available on this task for this policy.
        """
        selected = parse_nominal(names)
        if "stress" in names:
            log.info(
                "stress leaves out on %s: all but %s, because its simulator has no other conditions",
                policy.task,
                NOMINAL,
            )
        return selected

    def configure_conditions(self, names: Sequence[str]) -> None:
        """Prepare the task for an evaluation under conditions, before it is opened."""


@dataclass(frozen=True)
class ConditionedPolicy:
    """Description of a policy for the checks of conditions before a simulator starts."""

    task: str
    """Label of the task."""
    agent: str
    """Name of the agent."""
    spec: AgentSpec
    leg: str = ""
    """Names of the joints of one leg, as a regular expression; empty if the task file names none."""


class Host(ABC):
    """Simulator. Each package below `spiky_rl.hosts` defines one as ``HOST`` in its ``host.py``.

    The module of a host does not import its simulator before a task is loaded.
    """

    name: ClassVar[str]
    """Name of the package."""
    title: ClassVar[str]
    """Name for users, the origin of `HostTask.agent_defaults`; as a key of an agent's ``tasks`` it stands for all tasks of the host."""
    abilities: ClassVar[frozenset[str]]
    """Some of `VIDEO`, `LIVE_VIEW` and `SECOND_SIMULATION`."""
    distributions: ClassVar[tuple[str, ...]]
    """Distributions that simulate worlds or run networks; another version may give other bits."""
    assets: ClassVar[str] = "the task's own"
    """Source of the robots in words, if there is only one."""
    code_packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose classes a checkpoint may name, because every run imports them."""

    def require_ability(self, ability: str, flag: str) -> None:
        """Raise UserError if the host lacks the ``ability`` that a command's ``flag`` needs."""
        if ability not in self.abilities:
            raise UserError(f"{flag}: not available on tasks of {self.title}, which has no {ability}")

    @abstractmethod
    def owns(self, task: str) -> bool:
        """Return whether a registered id, with or without its version, belongs to this host, as far as known without the simulator."""

    @abstractmethod
    def list_tasks(self) -> Collection[str]:
        """Return the registered ids that are known without the simulator; empty if the list would be incomplete."""

    @abstractmethod
    def require_installed(self, video: bool = False) -> None:
        """Raise UserError if the simulator, or its graphics for ``video``, is not available on this machine."""

    def configure_assets(self, source: str) -> str:
        """Set the source of the robots, ``auto``, ``local`` or ``nucleus``, and return it in words. Raises UserError."""
        if source == "nucleus":
            raise UserError(
                f"--assets {source}: not available on tasks of {self.title}; allowed: auto, local"
            )
        return self.assets

    @abstractmethod
    def resolve_task(self, name: str) -> str:
        """Return the registered id of a task. Imports the simulator. Raises UnknownTask with the nearest ids.

        If ``name`` begins with a module and a colon, the module is imported already, by `hosts.find_host`.
        """

    @abstractmethod
    def load_task(self, request: TaskRequest) -> HostTask:
        """Configure a task. Raises UserError for an unknown task, override or asset."""

    def check_visualizers(self, names: Sequence[str], records_video: bool) -> None:
        """Raise UserError for an unknown or unavailable visualizer in ``names``, before a simulator starts.

        ``records_video``: whether the same process records videos.
        """
        if names:
            self.require_ability(LIVE_VIEW, f"--visualizer {','.join(names)}")

    def list_conditions(self) -> Mapping[str, Sequence[str]]:
        """Return the names of conditions by set: ``conditions`` for all conditions, ``all`` for the set ``--conditions all``."""
        return {"conditions": (NOMINAL,), "all": (NOMINAL,)}

    def parse_conditions(self, names: str) -> list[str]:
        """Return the conditions in ``names`` for a task and an agent that support all of them. Raises UserError."""
        return parse_nominal(names)

    def get_physics_sources(self, physics: str) -> Iterable[Path]:
        """Return the source files of the project that a physics backend compiles."""
        return ()


def parse_nominal(names: str) -> list[str]:
    """Return the conditions in ``names`` on a host whose only condition is nominal. Raises UserError."""
    allowed = (NOMINAL, "all", "stress")
    for name in (text.strip() for text in names.split(",")):
        if name not in allowed:
            raise UserError(
                f"--conditions: {name!r} given; allowed on this task: {', '.join(allowed)}, which all mean {NOMINAL}"
                f"{suggest_name(name, allowed)}"
            )
    return [NOMINAL]


def read_registered_ids(
    package: str,
    extensions: str,
    own_entries: tuple[str, ...],
    list_ids: Callable[[str], Iterable[ast.expr | None]],
) -> frozenset[str]:
    """Return the ids of the tasks that a ``package`` registers, read from its files without importing it.

    Empty if the package is not installed, or if the list would be incomplete: another package registers tasks too, or an id is computed.

    Args:
        extensions: Entry point group of packages that register tasks.
        own_entries: First parts of the entry points that register no further tasks.
        list_ids: Maps the source of a module to the expressions of the ids that it registers; None for an id without one.
    """
    spec = importlib.util.find_spec(package)
    entries = importlib.metadata.entry_points(group=extensions)
    if spec is None or any(not entry.value.startswith(own_entries) for entry in entries):
        return frozenset()
    ids = set[str]()
    for folder in spec.submodule_search_locations or ():
        for path in Path(folder).rglob("__init__.py"):
            for value in list_ids(path.read_text(encoding="utf-8")):
                if not isinstance(value, ast.Constant):
                    return frozenset()
                ids.add(str(value.value))
    return frozenset(ids)


def require_obs_groups(used: Mapping[str, Sequence[str]], known: Collection[str]) -> None:
    """Raise UserError, with role and ``known`` groups, if a role of the agent uses an unknown observation group."""
    for role, groups in used.items():
        for group in groups:
            if group not in known:
                raise UserError(
                    f"agent.obs_groups.{role}: the task has no observation group {group!r}; allowed: {', '.join(known)}"
                    f"{suggest_name(group, known)}"
                )


def find_latest_version(name: str, known: Collection[str]) -> str | None:
    """Return ``name`` if it is one of the ``known`` ids, else its latest version among them, or None."""
    if name in known:
        return name
    versions = [task for task in known if strip_version(task) == name]
    return max(versions, key=lambda task: int(task.rpartition("-v")[2]), default=None)


def make_unknown_task(key: str, name: str, known: Collection[str]) -> UnknownTask:
    """Return the error for the unknown task ``name`` of the flag or key ``key``, with the nearest ``known`` ids and files of tasks/."""
    names = {*known, *registry.list_names("tasks")}
    close = difflib.get_close_matches(strip_version(name.rpartition(":")[2]), names, n=4, cutoff=0.5)
    files = ", ".join(registry.list_names("tasks"))
    hint = f"did you mean {', '.join(close)}?" if close else f"files of tasks/: {files}"
    package = "" if ":" in name else "; a task of another package: PACKAGE:ID"
    return UnknownTask(f"{key}: {name!r} is not registered; {hint}{package}")
