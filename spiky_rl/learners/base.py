"""Base class of learners: libraries that train policies, with their abilities.

A learner turns an agent's specification into its library's configuration, returns a runner for an algorithm, and knows the keys of its
checkpoints. `Learner.require_ability` refuses a flag that needs an ability which the library lacks. A new learner is a package in
`spiky_rl.learners`; no other file knows it by name.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from spiky_rl.config.errors import require_module
from spiky_rl.config.options import UserError
from spiky_rl.learners import get_learner, list_learners

if TYPE_CHECKING:
    from torch import nn

    from spiky_rl.config.spec import AgentSpec

DISTRIBUTED = "distributed"
"""Ability to train data-parallel in several processes."""
EXPORTS = "exports"
"""Ability to export policies, in float and int8."""
DISTILLS = "distills"
"""Ability to train a student on a teacher's actions before PPO."""


class Learner(ABC):
    """Training library. Each package below `spiky_rl.learners` defines one as ``LEARNER`` in its ``learner.py``.

    The module of a learner imports neither torch nor its library before a run is configured.
    """

    name: ClassVar[str]
    """Name of the package, and value of ``--rl_library``."""
    distribution: ClassVar[str]
    """Distribution with the library's version."""
    module: ClassVar[str]
    """Module of the library, installed by our extra ``extra``."""
    extra: ClassVar[str]
    abilities: ClassVar[frozenset[str]]
    """Some of `DISTRIBUTED`, `EXPORTS` and `DISTILLS`."""
    algorithm_abilities: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Further abilities with some algorithms alone, by algorithm."""
    loggers: ClassVar[tuple[str, ...]] = ("tensorboard",)
    """Available values of ``--logger``."""
    algorithms: ClassVar[tuple[str, ...]]
    """Names of its algorithms, some of ``ppo``, ``td3`` and ``sac``."""
    checkpoint_keys: ClassVar[Mapping[str, tuple[str, ...]]]
    """Required keys of its checkpoints by algorithm; the first key holds the actor's weights."""
    scaling_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that only the checkpoints of some agents have: normalisers of observations and values, and scalers of rewards."""
    uses_tf32: ClassVar[bool] = False
    """Whether trainings on a GPU use TF32 and cuDNN's benchmark mode."""

    def require_installed(self) -> None:
        """Raise UserError if the library is not installed."""
        require_module(self.module, self.extra)

    def require_ability(self, ability: str, flag: str, algorithm: str | None = None) -> None:
        """Raise UserError if the learner lacks, for an ``algorithm`` or without one in general, the ``ability`` that ``flag`` needs."""
        if ability not in self.abilities | self.algorithm_abilities.get(algorithm or "", frozenset()):
            able = [name for name in list_learners() if ability in get_learner(name).abilities]
            source = f"{algorithm.upper()} of {self.name}" if algorithm else f"--rl_library {self.name}"
            raise UserError(f"{flag}: not available with {source}; allowed: {', '.join(able)}")

    @abstractmethod
    def make_runner_cfg(self, spec: AgentSpec) -> dict[str, Any]:
        """Return the runner's configuration of an agent. Raises SpecError for settings that the library does not support."""

    @abstractmethod
    def get_runner_class(self, algorithm: str) -> type[Any]:
        """Return the class of the runner, a `BaseRunner`, for an ``algorithm`` of `algorithms`. Imports the library."""

    def load_actor(self, spec: AgentSpec, loaded: Mapping[str, Any]) -> nn.Module:
        """Return the actor of a checkpoint ``loaded`` with its trained weights, as a model of rsl_rl; ``spec`` is its agent.

        Raises UserError if the library has no such actors, and ValueError or RuntimeError if agent and weights do not fit.
        """
        del loaded
        raise UserError(f"not available for {spec.algorithm.upper()} of {self.name}")

    @abstractmethod
    def read_registered_cfg(self, registered: Mapping[str, Any], task: str) -> dict[str, Any]:
        """Return a host's ``registered`` configuration of a ``task`` in the layout of agent files.

        Raises SpecError if it has no equivalent in that layout.
        """

    @abstractmethod
    def make_registered_cfg(self, spec: AgentSpec, registered: Mapping[str, Any]) -> dict[str, Any]:
        """Return an agent's configuration for a host's own command of this library; ``registered`` is the host's for the task.

        Raises SpecError if the command does not support the agent's settings.
        """

    @abstractmethod
    def check_minibatches(self, spec: AgentSpec, num_envs: int, batches: int) -> None:
        """Raise UserError if the library cannot learn from rollouts of ``num_envs`` environments in ``batches`` minibatches."""

    @contextlib.contextmanager
    def use_torch_settings(self, device: str) -> Iterator[None]:
        """Use the library's torch backend settings on a CUDA ``device``, and restore the previous ones at the end."""
        import torch

        if torch.device(device).type != "cuda" or not self.uses_tf32:
            yield
            return
        matmul: Any = torch.backends.cuda.matmul
        cudnn: Any = torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, True, False, True
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
