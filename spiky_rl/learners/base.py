"""A learner: a library that trains policies, with its abilities."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from spiky_rl.config.errors import require_module
from spiky_rl.config.options import UserError
from spiky_rl.learners import get_learner, list_learners

if TYPE_CHECKING:
    from spiky_rl.config.spec import AgentSpec
    from spiky_rl.learners.common.runner import BaseRunner

DISTRIBUTED = "distributed"
"""Trains data-parallel in several processes."""
LOGGERS = "loggers"
"""Writes its scalars to other services than TensorBoard."""
EXPORTS = "exports"
"""Its policies can be exported, in integers too."""
DISTILLS = "distills"
"""Trains a student on a teacher's actions before PPO."""


class Learner(ABC):
    """A library that trains. A package below `spiky_rl.learners` holds one in its ``learner.py``, as ``LEARNER``.

    The module of a learner imports neither torch nor its library: both wait until a run is configured.
    """

    name: ClassVar[str]
    """Its package's name, which ``--rl_library`` takes."""
    distribution: ClassVar[str]
    """The distribution that has its version."""
    module: ClassVar[str]
    """The module to import, which is in the extra ``extra``."""
    extra: ClassVar[str]
    abilities: ClassVar[frozenset[str]]
    """Some of `DISTRIBUTED`, `LOGGERS`, `EXPORTS` and `DISTILLS`."""
    checkpoint_keys: ClassVar[tuple[str, ...]]
    """Keys that its checkpoints hold at least."""
    uses_tf32: ClassVar[bool] = False
    """Whether its trainings on a GPU multiply in TF32 and look for the fastest convolutions."""

    def require_installed(self) -> None:
        """Raise UserError if the library is not installed."""
        require_module(self.module, self.extra)

    def require_ability(self, ability: str, flag: str) -> None:
        """Raise UserError that names a ``flag`` of a command if the learner lacks the ``ability`` that the flag needs."""
        if ability not in self.abilities:
            able = [name for name in list_learners() if ability in get_learner(name).abilities]
            raise UserError(
                f"{flag}: not available with --rl_library {self.name}; allowed: {', '.join(able)}"
            )

    @abstractmethod
    def make_runner_cfg(self, spec: AgentSpec) -> dict[str, Any]:
        """Return the configuration that the runner takes for an agent. Raises SpecError for what the library cannot do."""

    @abstractmethod
    def get_runner_class(self) -> type[BaseRunner]:
        """Return the class of the runner, which imports the library."""

    @abstractmethod
    def read_registered_cfg(self, registered: Mapping[str, Any], task: str) -> dict[str, Any]:
        """Return the configuration that a host registers for this learner on a ``task`` in the layout that agents change.

        Raises SpecError for one that agents cannot change.
        """

    @abstractmethod
    def make_registered_cfg(self, spec: AgentSpec, registered: Mapping[str, Any]) -> dict[str, Any]:
        """Return an agent's configuration for a host's own command of this library.

        Args:
            spec: The agent.
            registered: The configuration that the host registers for the task.

        Raises:
            SpecError: That command cannot give the agent what it asks for.
        """

    @abstractmethod
    def check_minibatches(self, spec: AgentSpec, num_envs: int, batches: int) -> None:
        """Raise UserError if recurrent rollouts of ``num_envs`` environments cannot be split into minibatches."""

    @contextlib.contextmanager
    def use_torch_settings(self, device: str) -> Iterator[None]:
        """Set torch's switches on a CUDA ``device`` as the library's trainings set them, and put them back."""
        import torch

        if torch.device(device).type != "cuda" or not self.uses_tf32:
            yield
            return
        owners = [
            torch.backends.cuda.matmul,
            torch.backends.cudnn,
            torch.backends.cudnn,
            torch.backends.cudnn,
        ]
        names, values = ("allow_tf32", "allow_tf32", "deterministic", "benchmark"), (True, True, False, True)
        before = [getattr(owner, name) for owner, name in zip(owners, names, strict=True)]
        _set_switches(owners, names, values)
        try:
            yield
        finally:
            _set_switches(owners, names, before)


def _set_switches(owners: Sequence[Any], names: Sequence[str], values: Sequence[bool]) -> None:
    for owner, name, value in zip(owners, names, values, strict=True):
        setattr(owner, name, value)
