"""Interface of all targets: a file that a policy is written into, and how that file is run beside the live policy.

This file and those of the targets import torch only where they need it: a command asks them what they can express, and answers
without it.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from spiky_rl.config.plain_data import PlainMapping, PlainValue
from spiky_rl.config.registry import Component
from spiky_rl.deploy._program import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from spiky_rl.deploy._calibration import CalibrationRollout
    from spiky_rl.learners.rsl_rl.model import MLPModel

WHOLE_SPIKES = ("bptt", "eprop", "rstdp", "slayer", "stdp", "superspike")
"""Rules under which a spike belongs to one step; under the others a layer sends shares of one in two."""

type Session = Callable[[np.ndarray, list[np.ndarray]], list[np.ndarray]]
"""One control step from rest on: the observation [1, ...] and the live policy's state before it, to the action [1, A] and, where
the file gives it, the state after it. What holds a state of its own ignores the one that it is given."""


class ObservationNormalizer(Protocol):
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

    renamed = {
        "refuse": "check_network",
        "reference": "get_reference_model",
        "allowed": "get_tolerance",
        "open": "open_session",
        "require": "check_requirements",
    }

    supported: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Values that the target can express, by dotted path of an agent's key; a key that is not listed may have any. A target that
    lists some of ``network`` needs one: an agent without is an ANN."""
    own: ClassVar[tuple[str, ...]] = ()
    """Keys of ``supported`` of which one's own code may be expressible too: that shows when the policy is written."""
    stale: ClassVar[tuple[str, ...]] = ()
    """Files that an earlier export may have left beside the new one, and that belong to it no longer."""
    compiled = False
    """Whether the live policy runs on the CPU's compiled kernels when it is compared, and not on the torch reference."""
    tolerance = 0.0
    """Largest difference of an action that counts as equal."""
    relative = False
    """Whether that difference is a share of the largest action of the episode so far, or of 1 where no action is larger."""
    flips = 0.0
    """Share of control steps that may differ by more: a spike at its threshold can fall on either side of it."""

    changed = ""
    """Difference of its `reference` from the live policy, in words."""

    def check_requirements(self) -> None:
        """Raise UserError where this machine cannot write the target or prove it, before anything is written."""

    in_c = False
    """Whether what it writes is C, for which a chip's compiler can say what it takes."""
    observes = False
    """Whether it has to see what the policy observes before it writes."""

    def check_network(self, agent: PlainMapping) -> None:
        """Raise ExportError that names the key of an ``agent``, as plain data, that the target cannot express.

        Called before Isaac Lab is imported, with what is known of the agent then, and again with all of it: a key that the agent
        lacks is passed over.
        """
        if any(path.startswith("network.") for path in self.supported) and not agent.get("network"):
            raise self.refusal("network", "none", self.supported["network.name"])
        for path, allowed in self.supported.items():
            for place, value in values(agent, path):
                known = strip_module(value) if path.endswith(".class_name") else value
                if known not in allowed and not (":" in value and path in self.own):
                    raise self.refusal(place, value, allowed)

    def refusal(self, place: str, value: str, allowed: Sequence[str]) -> ExportError:
        """The error that the key of an agent at ``place`` has a ``value`` other than those ``allowed``."""
        name = type(self).__module__.rpartition(".")[2]
        return ExportError(f"agent.{place}: {value} given; allowed for {name}: {', '.join(allowed)}")

    def calibrate(self, rollout: CalibrationRollout) -> None:
        """Take in the ``rollout`` that the policy observes; called before `write` where the target ``observes``."""

    def get_reference_model(self, model: MLPModel) -> MLPModel:
        """The policy that the file is to be equal to: the live ``model``, unless the target changes it."""
        return model

    def get_tolerance(self, model: MLPModel) -> float:  # pylint: disable=unused-argument
        """The largest difference of an action from that of this ``model`` which counts as equal; a share of it if `relative`."""
        return self.tolerance

    @abstractmethod
    def write(self, model: MLPModel, folder: Path) -> Path:
        """Write a ``model``, rsl_rl's or ours, into a ``folder``; returns the file. Raises ExportError where it cannot be."""

    @abstractmethod
    def open_session(self, path: Path) -> Session | None:
        """A session that runs the file ``path``; None where its runtime is not installed."""


def parts(agent: PlainMapping, path: str) -> Iterator[tuple[str, PlainValue]]:
    """Yield what stands at a dotted ``path`` of an ``agent``, with its place; of a list each element: one for each layer."""
    node: PlainValue = agent
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(node, list | tuple):
        yield from ((f"{path}[{i}]", each) for i, each in enumerate(node))
    else:
        yield path, node


def values(agent: PlainMapping, path: str) -> Iterator[tuple[str, str]]:
    """Yield the texts at a dotted ``path`` of an ``agent``, each with its place; a component may be written as its name alone."""
    above, _, last = path.rpartition(".")
    for place, part in parts(agent, above):
        value = part.get(last) if isinstance(part, Mapping) else part if last == "name" else None
        if isinstance(value, str):
            yield f"{place}.{last}", value


def strip_module(name: str) -> str:
    """Return the ``name`` of a class of rsl_rl without its module, with a colon or a dot before it; any other name as it is."""
    parts_of_name = re.split("[:.]", name)
    return parts_of_name[-1] if parts_of_name[0] == "rsl_rl" else name


def describe_model(model: MLPModel) -> PlainMapping:
    """Return what decides whether a target can express a ``model``, as the plain data of an agent; an ANN has no network."""
    kind = type(model.distribution)
    name = strip_module(f"{kind.__module__}:{kind.__name__}")
    distribution = {} if model.distribution is None else {"class_name": name}
    return {"network": getattr(model, "settings", None), "actor": {"distribution_cfg": distribution}}
