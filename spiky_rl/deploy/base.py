"""Interface of export targets: write a policy to a file, and run the file to compare it with the live policy.

This module and the targets import torch inside functions only, so that commands can check a request without torch.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spiky_rl.config.plain_data import PlainMapping, PlainValue
from spiky_rl.config.registry import Component, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from spiky_rl.deploy._calibration import CalibrationRollout
    from spiky_rl.deploy._contract import PolicyContract
    from spiky_rl.learners.rsl_rl.model import MLPModel

ANN_CLASSES = ("BurnInMLPModel", "MLPModel", "RNNModel")
"""Classes of ANNs that a file in C can hold: rsl_rl's, and ours."""
BINARY_SPIKE_RULES = ("bptt", "eprop", "rstdp", "slayer", "stdp", "superspike")
"""Learning rules whose spikes are 0 or 1. With other rules a spike is shared between two steps, so its values are graded."""

type Session = Callable[[np.ndarray, list[np.ndarray]], list[np.ndarray]]
"""A control step, called from the start of an episode on: (observation [1, ...], state of the live policy) -> action [1, A] and, if
the file returns it, the new state. A file that holds its own state ignores the given one."""


class ExportError(UserError):
    """Error: a target cannot express the policy."""


class Target(Component):
    """An export target: it writes a policy and runs the written file."""

    supported: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Dotted path of an agent's key -> values that the target can express; other keys may have any value. Names of encoders also hold
    for the parts of a concat encoder. If a path begins with ``network.``, ANNs, which have no network, are refused."""
    own: ClassVar[tuple[str, ...]] = ()
    """Keys of ``supported`` that may also name a user's code, which is checked when the policy is written."""
    stale_files: ClassVar[tuple[str, ...]] = ()
    """Files of an earlier export that are removed."""
    needs_cpu_backend = False
    """Whether the file is compared with the live policy on the `cpu` backend; else on the torch reference."""
    tolerance = 0.0
    """Largest difference of an action that counts as equal."""
    has_relative_tolerance = False
    """Whether the tolerance is a share of the largest action of the episode so far, or of 1 if no action is larger."""
    max_mismatch_share = 0.0
    """Share of control steps that may differ by more: rounding may decide whether a potential near its threshold gives a spike."""
    reference_text = ""
    """Description of the reference policy if it is not the live one, as in: equal to the policy {reference_text}."""
    maps_actions = False
    """Whether the file can map the policy's actions to a task's bounds."""
    gives_commands = False
    """Whether the file gives a robot's commands where the environment's action terms are known; else it gives raw actions."""
    is_c = False
    """Whether the file is C, so that its memory on a chip can be measured."""
    name = "policy"
    """Prefix of the names in C, and name of its files."""
    contract: PolicyContract | None = None
    """Facts that a program must know to call the policy, for the header in C; None if they are not known."""
    needs_rollout = False
    """Whether the target needs a rollout of the policy before it writes."""

    def check_requirements(self) -> None:
        """Raise UserError if this machine cannot write or verify the target. Called before anything is written."""

    def check_network(self, agent: PlainMapping) -> None:
        """Raise ExportError, with the key of ``agent``, if the target cannot express the agent.

        Called before Isaac Lab is imported, with the part of the agent that is known then, and later with all of it: missing keys
        are ignored.
        """
        if any(path.startswith("network.") for path in self.supported) and not agent.get("network"):
            raise self.refusal("network", "none", self.supported["network.name"])
        self.check_values(agent, self.supported)

    def check_values(self, agent: PlainMapping, supported: Mapping[str, tuple[str, ...]]) -> None:
        """Raise ExportError, with the key of ``agent``, if a value is not in ``supported``."""
        for path, allowed in supported.items():
            for key, value in find_values(agent, path):
                name = strip_module(value) if path.endswith(".class_name") else value
                if name not in allowed and not (":" in value and path in self.own):
                    raise self.refusal(key, name, allowed)

    def refusal(self, key: str, value: str, allowed: Sequence[str]) -> ExportError:
        """Return the error for a ``value`` of the agent's ``key`` that is not ``allowed``."""
        name = type(self).__module__.rpartition(".")[2]
        return ExportError(f"agent.{key}: {value} given; allowed for {name}: {', '.join(allowed)}")

    def calibrate(self, rollout: CalibrationRollout) -> None:
        """Take the ``rollout`` of the policy. Called before `write` if ``needs_rollout`` is set."""

    def get_reference_model(self, model: MLPModel) -> MLPModel:
        """Return the policy that the file must equal: the live ``model``, unless the target changes it."""
        return model

    def get_tolerance(self, model: MLPModel) -> float:  # pylint: disable=unused-argument
        """Return the tolerance for ``model``; see `tolerance`."""
        return self.tolerance

    def format_tolerance(self, model: MLPModel, scale: float) -> str:
        """Return in words how far actions of a file may differ from the reference policy's, as in: equal ``within 1e-4``.

        ``scale`` is `get_command_scale` of the policy that the file is written from.
        """
        limit = self.get_tolerance(model)
        share = f" of the largest action so far, or of {scale:g}," if self.has_relative_tolerance else ""
        return f"within {limit:.1g}{share}" if limit else "to the last bit"

    @abstractmethod
    def write(self, model: MLPModel, folder: Path) -> Path:
        """Write ``model`` into ``folder`` and return the path of the file. Raises ExportError if the target cannot express it."""

    @abstractmethod
    def open_session(self, path: Path) -> Session | None:
        """Return a session that runs the file ``path``; None if its runtime is not installed."""


def find_parts(agent: PlainMapping, path: str) -> Iterator[tuple[str, PlainValue]]:
    """Yield (key, value) at a dotted ``path`` of ``agent``; for a list, which has one value per layer, yield a pair per element."""
    node: PlainValue = agent
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(node, list | tuple):
        yield from ((f"{path}[{i}]", element) for i, element in enumerate(node))
    else:
        yield path, node


def find_values(agent: PlainMapping, path: str) -> Iterator[tuple[str, str]]:
    """Yield (key, text) for each text at a dotted ``path`` of ``agent``; for a path in an encoder, also for the encoder's parts.

    A component may be given by its name alone: ``encoder: rate`` has the text ``rate`` at ``encoder.name``.
    """
    above, _, last = path.rpartition(".")
    for key, part in find_parts(agent, above):
        if isinstance(part, Mapping):
            value = part.get(last)
        else:
            value = part if last == "name" else None
        if isinstance(value, str):
            yield f"{key}.{last}", value
        if key.startswith("network.encoder") and isinstance(part, Mapping):
            for name in ("first", "second"):
                yield from find_values(agent, f"{key}.{name}.{last}")


def strip_module(name: str) -> str:
    """Remove the module from the name of a class of rsl_rl or ours, separated by a colon or a dot; keep other names."""
    parts_of_name = re.split("[:.]", name)
    return parts_of_name[-1] if parts_of_name[0] in ("rsl_rl", "spiky_rl") else name


def get_class_name(part: object) -> str:
    """Return the name of a ``part``'s class, without its module if that is rsl_rl's or ours."""
    return strip_module(f"{type(part).__module__}:{type(part).__name__}")


def get_entry_name(part: object) -> str:
    """Return the registry name of a ``part``, which is its file's; empty if the part is a user's."""
    package, _, name = type(part).__module__.rpartition(".")
    return name if package.startswith("spiky_rl.") else ""


def list_encoders(path: str, encoder: Any) -> Iterator[tuple[str, Any]]:
    """Yield the ``path`` and the encoder of each part of ``encoder`` that is no pair of others; their channels lie side by side."""
    if get_entry_name(encoder) != "concat":
        yield path, encoder
        return
    yield from list_encoders(f"{path}_first", encoder.first)
    yield from list_encoders(f"{path}_second", encoder.second)


def get_normalization(model: MLPModel) -> tuple[Tensor, Tensor] | None:
    """Return the mean and the divisor of the observations of ``model``, [O] each; None if it does not normalise them."""
    from torch import nn

    normalizer = model.obs_normalizer
    if isinstance(normalizer, nn.Identity):
        return None
    return normalizer.mean.detach().cpu(), (normalizer.std + normalizer.eps).detach().cpu()


def get_command_scale(model: MLPModel) -> float:
    """Return the largest factor from the policy's actions to commands; 1 if ``model`` does not give commands."""
    from spiky_rl.deploy._commands import CommandMap

    commands = getattr(model.distribution, "to_task_units", None)
    return float(commands.scale.abs().max()) if isinstance(commands, CommandMap) else 1.0


def count_observations(model: MLPModel) -> int:
    """Return the number of values in an observation of ``model``."""
    return math.prod(getattr(model, "input_shape", (model.obs_dim,)))


def describe_model(model: MLPModel) -> PlainMapping:
    """Return the agent of ``model`` as far as `Target.check_network` needs it; an ANN has no network."""
    # the policy's own distribution, if its actions are mapped
    inner = getattr(model.distribution, "inner", model.distribution)
    distribution = {} if inner is None else {"class_name": get_class_name(inner)}
    return {"network": getattr(model, "settings", None), "actor": {"distribution_cfg": distribution}}
