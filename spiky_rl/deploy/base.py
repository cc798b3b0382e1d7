"""What every target is: a file that a policy is written into, and how that file is run beside the live policy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from spiky_rl.config.registry import Component, Configured
from spiky_rl.deploy._calibration import Rollout

if TYPE_CHECKING:
    from spiky_rl.hosts.rsl_rl.model import MLPModel

type Session = Callable[[np.ndarray, list[np.ndarray]], list[np.ndarray]]
"""One control step from rest on: the observation [1, ...] and the live policy's state before it, to the action [1, A] and, where
the file gives it, the state after it. What holds a state of its own ignores the one that it is given."""


class Normaliser(Protocol):
    """Normalisation of observations as rsl_rl does it: (x - mean) / (std + eps)."""

    eps: float

    @property
    def mean(self) -> Tensor:
        """[O]."""
        ...

    @property
    def std(self) -> Tensor:
        """[O]."""
        ...


class Target(Component):
    """Writes a policy and runs what was written."""

    compiled = False
    """Whether the live policy runs on the CPU's compiled kernels when it is compared, and not on the torch reference."""
    tolerance = 0.0
    """Largest difference of an action that counts as equal."""
    flips = 0.0
    """Share of control steps that may differ by more: a spike at its threshold can fall on either side of it."""

    def require(self) -> None:
        """Raise UserError where this machine cannot write the target or prove it, before anything is written."""

    in_c = False
    """Whether what it writes is C, for which a chip's compiler can say what it takes."""
    observes = False
    """Whether it has to see what the policy observes before it writes."""

    def refuse(self, network: Configured | None) -> None:
        """Raise ExportError for an agent's ``network`` (None: an ANN) that it cannot express, before a simulator starts."""

    def calibrate(self, rollout: Rollout) -> None:
        """Take in the ``rollout`` that the policy observes; called before `write` where the target ``observes``."""

    def reference(self, model: MLPModel) -> MLPModel:
        """The policy that the file is to be equal to: the live ``model``, unless the target changes it."""
        return model

    def allowed(self, model: MLPModel) -> float:  # pylint: disable=unused-argument
        """The largest difference of an action from that of this ``model`` which counts as equal."""
        return self.tolerance

    @abstractmethod
    def write(self, model: MLPModel, folder: Path) -> Path:
        """Write a ``model``, rsl_rl's or ours, into a ``folder``; returns the file. Raises ExportError where it cannot be."""

    @abstractmethod
    def open(self, path: Path) -> Session | None:
        """A session that runs the file ``path``; None where its runtime is not installed."""
