"""A host: a simulator with its tasks, environments and abilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from spiky_rl.config.options import UserError, suggest_name

if TYPE_CHECKING:
    from spiky_rl.config.spec import AgentSpec, TaskSpec
    from spiky_rl.learners.base import Learner

VIDEO = "video"
"""A robot can be filmed."""
LIVE_VIEW = "live view"
"""A run can be watched while it goes on."""
NOMINAL = "nominal"
"""The condition of an undisturbed task, which every host has."""


class UnknownTask(UserError):
    """A task that no installed package registers."""


class NonFiniteError(RuntimeError):
    """The simulation returned an observation or a reward that is not finite, or was given such an action."""

    def __init__(self, message: str, blames_policy: bool) -> None:
        super().__init__(message)
        self.blames_policy = blames_policy
        """Whether the policy, and not the simulation, is to blame."""


@dataclass(frozen=True)
class TaskRequest:
    """A request for a host's task."""

    name: str
    """Registered id of the task, as `Host.resolve_task` takes it."""
    learner: Learner
    """Trains on it: a host may register a configuration of its own for each learner."""
    task_spec: TaskSpec | None = None
    """The task's file; None if it has none."""
    overrides: Sequence[str] = ()
    """Overrides of the environment."""
    assets: str = ""
    """Source of the robots in words, as `Host.configure_assets` returns it."""


@dataclass(frozen=True)
class SimulationOptions:
    """Options of a simulation besides its task."""

    seed: int
    """Seed of everything that the simulation draws."""
    clip_actions: float | None = None
    """Largest absolute value of an action; None if actions are not clipped."""
    video: bool = False
    """Whether cameras may be opened."""
    deterministic: bool = False
    """Whether the same numbers come out of every run, at a cost in speed."""
    distributed: bool = False
    """Whether this is one of several processes with a device each."""
    visualizers: Sequence[str] | None = None
    """Names of visualizers, none for an empty list; None for those that the task has itself."""
    visible_envs: int | None = None
    """Number of environments that the visualizers show; None for their own number."""


class HostTask(ABC):
    """A task of a host, configured and not yet opened."""

    id: str
    """Registered id."""
    description: str
    """The task with the package that it comes from, such as ``Isaac-Ant of Isaac Lab 3.0.0``."""
    agent_defaults: Mapping[str, Any]
    """The learner's registered configuration of the task, in the layout that agents change."""
    assets: str
    """Source of the robots, in words."""
    physics: str
    """Name of the physics backend. An opened environment may have another one than was configured: see `open`."""

    @abstractmethod
    def check_agent(self, spec: AgentSpec) -> None:
        """Fit the task to an agent: its observation groups, its history of observations. Raises UserError if they do not fit."""

    @abstractmethod
    def get_default_num_envs(self, device: str) -> int:
        """Return the number of environments on a ``device``, ``cpu`` or ``cuda:N``, where neither user nor task file says it."""

    @abstractmethod
    def configure(self, device: str, num_envs: int, seed: int) -> None:
        """Set device, number of environments and seed, and choose the physics backend. Raises UserError if it is not available."""

    @abstractmethod
    def get_physics_on(self, device: str) -> str:
        """Return the name of the physics backend that the configured task would have on another ``device``."""

    @abstractmethod
    def open(self, device: str, num_envs: int, options: SimulationOptions) -> AbstractContextManager[Any]:
        """Open the task as B environments at once, a `HostEnv`, closed at the end. `physics` then names what really steps them."""

    @abstractmethod
    def write_params(self, folder: Path, runner_cfg: Mapping[str, Any]) -> None:
        """Write the configurations of the environment and of the runner into a ``folder``."""

    def select_conditions(self, names: str, policy: ConditionedPolicy, frozen_by: str = "") -> list[str]:
        """Return the conditions that ``names`` lists with commas; nominal is always the first.

        Args:
            names: Names of conditions and of the sets ``all`` and ``stress``.
            policy: The policy that is to be measured under them.
            frozen_by: The flag that forbids changes of the network, for messages; empty if conditions may change it.

        Raises:
            UserError: A condition is unknown, or not available on this task for this policy.
        """
        return parse_nominal(names)

    def configure_conditions(self, names: Sequence[str]) -> None:
        """Prepare the task for an evaluation under conditions, before it is opened."""


@dataclass(frozen=True)
class ConditionedPolicy:
    """What conditions need to know of a policy before a simulator starts."""

    task: str
    """Label of the task."""
    agent: str
    """Name of the agent."""
    spec: AgentSpec
    leg: str = ""
    """Names of the joints of one leg, as a regular expression; empty if the task file names none."""


class Host(ABC):
    """A simulator. A package below `spiky_rl.hosts` holds one in its ``host.py``, as ``HOST``.

    The module of a host does not import its simulator: that waits until a task is loaded.
    """

    name: ClassVar[str]
    """Its package's name."""
    abilities: ClassVar[frozenset[str]]
    """Some of `VIDEO` and `LIVE_VIEW`."""
    distributions: ClassVar[tuple[str, ...]]
    """Distributions that step worlds or run networks: another version of one may give other bits."""
    code_packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose classes a checkpoint may name, because every run imports them."""

    def require_ability(self, ability: str, flag: str) -> None:
        """Raise UserError that names a ``flag`` of a command if the host lacks the ``ability`` that the flag needs."""
        if ability not in self.abilities:
            raise UserError(f"{flag}: not available on tasks of {self.name}, which has no {ability}")

    @abstractmethod
    def owns(self, task: str) -> bool:
        """Return whether a task, by its id or file stem, is one of this host. Does not import the simulator."""

    @abstractmethod
    def check_task(self, key: str, name: str) -> None:
        """Raise UnknownTask with the nearest names if nothing registers a task, as far as that shows without the simulator.

        Args:
            key: Flag or key that names the task, for messages.
            name: A file stem of tasks/, or a registered id.
        """

    @abstractmethod
    def require_installed(self, video: bool = False) -> None:
        """Raise UserError if the simulator, or for ``video`` its graphics, cannot be used here."""

    @abstractmethod
    def configure_assets(self, source: str) -> str:
        """Choose the source of the robots, ``auto``, ``local`` or ``nucleus``, and return it in words."""

    @abstractmethod
    def resolve_task(self, name: str) -> str:
        """Return the registered id of a task. Imports the simulator. Raises UnknownTask with the nearest ids."""

    @abstractmethod
    def load_task(self, request: TaskRequest) -> HostTask:
        """Configure a task. Raises UserError for an unknown task, override or asset."""

    def check_visualizers(self, names: Sequence[str], records_video: bool) -> None:
        """Raise UserError for a visualizer that does not exist or cannot run here, before a simulator starts.

        Args:
            names: Names of visualizers.
            records_video: Whether the same process films.
        """
        if names:
            self.require_ability(LIVE_VIEW, f"--visualizer {','.join(names)}")

    def list_conditions(self) -> Mapping[str, Sequence[str]]:
        """Return the names of conditions by set: ``conditions`` for all of them, ``all`` for those of ``--conditions all``."""
        return {"conditions": (NOMINAL,), "all": (NOMINAL,)}

    def parse_conditions(self, names: str) -> list[str]:
        """Return the conditions that ``names`` lists for a task and an agent that can have all of them. Raises UserError."""
        return parse_nominal(names)

    def get_physics_sources(self, physics: str) -> Iterable[Path]:
        """Return the source files of the project that a physics backend compiles."""
        return ()


def parse_nominal(names: str) -> list[str]:
    """Return the conditions that ``names`` lists on a host without any but nominal. Raises UserError."""
    allowed = (NOMINAL, "all", "stress")
    for name in (text.strip() for text in names.split(",")):
        if name not in allowed:
            raise UserError(
                f"--conditions: {name!r} given; allowed: {', '.join(allowed)}{suggest_name(name, allowed)}"
            )
    return [NOMINAL]
