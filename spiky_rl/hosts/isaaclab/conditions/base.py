"""What a condition is: a group of environments, and what is done to what their policy senses, sends, moves and computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from spiky_rl.config.registry import UserError
from spiky_rl.networks.base import SpikingNetwork


class ConditionError(UserError):
    """A condition that there is not, or that a task or an agent cannot be put under."""


class Policy(Protocol):
    """A trained policy as an evaluation uses it, whichever library trained it: `spiky_rl.hosts.common.playing.PlayedPolicy`."""

    model: nn.Module
    network: SpikingNetwork | None
    """None for an ANN."""
    adapts: bool
    """Whether what is plastic in its network changes while it acts."""

    def copy(self) -> Self:
        """One with weights and a state of its own, at rest."""
        ...  # pylint: disable=unnecessary-ellipsis

    def __call__(self, obs: Any) -> Tensor:
        """Actions [B, A]; the state goes on by one control step."""
        ...  # pylint: disable=unnecessary-ellipsis

    def reset(self, dones: Tensor | None = None) -> None:
        """Put the environments that are ``dones`` [B] at rest; without ``dones``, all of them."""

    def activity(self, obs: Any, part: Tensor) -> Any:
        """Spikes and operations of the control step to come, in the environments ``part``."""


@dataclass(frozen=True)
class Group:
    """The environments that a condition acts on."""

    env: Any
    """The simulation, Isaac Lab's own environment without wrappers."""
    ids: Tensor
    """Indices of the environments, [E]."""
    seed: int
    """Seed of everything that the condition draws."""
    sensors: Tensor
    """Which sensor each observed value comes from, [C]: see `sensors_of`."""
    deviation: Tensor
    """Standard deviation of each observed value under random actions, [C]."""
    middle: int = 0
    """Control step in which whatever happens in the middle of an episode happens: half of the longest episode."""
    leg: str = ""
    """Names of the joints of one leg, as a regular expression; empty: the robot has none that is known."""


class Condition(ABC):
    """What is done to a group of environments."""

    text: ClassVar[str]
    """One line: what is done, with its magnitude."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What a task or an agent must have for it: keys of `requirements.REQUIREMENTS`."""
    damages: ClassVar[bool] = False
    """Whether it begins in the middle of an episode, so that recovery from it can be measured."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.generator = torch.Generator(group.ids.device).manual_seed(group.seed)

    @classmethod
    def configure(cls, env_cfg: Any) -> None:
        """Make a task's configuration ready, before the simulator starts; without effect until the condition acts."""

    def changed(self, policy: Policy) -> Policy | None:  # pylint: disable=unused-argument
        """A changed copy that acts in the place of ``policy``; None: the policy itself."""
        return None

    def begin(self) -> None:
        """Once, where the group's episodes begin."""

    def observe(self, values: Tensor) -> Tensor:
        """What the policy gets to see of ``values`` [E, C]; called once per control step."""
        return values

    def send(self, actions: Tensor) -> Tensor:
        """What reaches the robot of the policy's ``actions`` [E, A]; called once per control step."""
        return actions

    def step(self) -> None:
        """Before every control step."""

    def reset(self, dones: Tensor) -> None:
        """After a control step: the episodes of ``dones`` [E] have ended, and others have begun."""

    def uniform(self, *size: int) -> Tensor:
        """Numbers between 0 and 1, from the group's seed."""
        return torch.rand(size, generator=self.generator, device=self.generator.device)


class Damage(Condition):
    """What changes in the middle of every episode, once and for good."""

    damages = True

    def begin(self) -> None:
        self.steps = 0

    def step(self) -> None:
        if self.steps == self.group.middle:
            self.damage()
        self.steps += 1

    @abstractmethod
    def damage(self) -> None:
        """What happens in the middle of the episode."""


class Nominal(Condition):
    """As trained."""

    text = "nothing changed"


@contextmanager
def drawing(seed: int, device: Any) -> Iterator[None]:
    """Torch's own random numbers, which the simulator takes, from ``seed``; afterwards they go on as if nobody had drawn."""
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
