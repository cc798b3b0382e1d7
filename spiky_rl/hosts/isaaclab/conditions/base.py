"""What a condition is: a group of environments, and what is done to what their policy senses, sends, moves and computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, override

import torch
from torch import Tensor

from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab.workflows import Env, EnvCfg
from spiky_rl.learners.common.inference_policy import InferencePolicy


class ConditionError(UserError):
    """A condition that there is not, or that a task or an agent cannot be put under."""


@dataclass(frozen=True)
class EnvGroup:
    """The environments that a condition acts on."""

    env: Env
    """The simulation, Isaac Lab's own environment without wrappers."""
    ids: Tensor
    """Indices of the environments, [E]."""
    seed: int
    """Seed of everything that the condition draws."""
    sensors: Tensor
    """Which sensor each observed value comes from, [C]: see `map_values_to_sensors`."""
    observation_std: Tensor
    """Standard deviation of each observed value under random actions, [C]."""
    damage_step: int = 0
    """Control step in which whatever happens in the middle of an episode happens: half of the longest episode."""
    leg: str = ""
    """Names of the joints of one leg, as a regular expression; empty: the robot has none that is known."""


class EvalCondition(ABC):
    """A disturbance of a group of environments."""

    text: ClassVar[str]
    """One line: what is done, with its magnitude."""
    requirements: ClassVar[tuple[str, ...]] = ()
    """What a task or an agent must have for it: keys of `requirements.REQUIREMENTS`."""
    damages: ClassVar[bool] = False
    """Whether it begins in the middle of an episode, so that recovery from it can be measured."""

    def __init__(self, group: EnvGroup) -> None:
        self.group = group
        self.generator = torch.Generator(group.ids.device).manual_seed(group.seed)

    @classmethod
    def configure(cls, env_cfg: EnvCfg) -> None:
        """Make a task's ``env_cfg`` ready, before the simulator starts; without effect until the condition acts."""

    def perturb_policy(
        self, policy: InferencePolicy
    ) -> list[InferencePolicy]:  # pylint: disable=unused-argument
        """Return the changed copies that act in the place of ``policy``; empty if the policy itself acts.

        The copies share the group's environments: in their order, evenly.
        """
        return []

    def begin(self) -> None:
        """Once, where the group's episodes begin."""

    def perturb_observations(self, values: Tensor) -> Tensor:
        """The observation ``values`` [E, C] as the policy receives them; called once per control step."""
        return values

    def perturb_actions(self, actions: Tensor) -> Tensor:
        """The policy's ``actions`` [E, A] as they reach the robot; called once per control step."""
        return actions

    def step(self) -> None:
        """Before every control step."""

    def reset(self, dones: Tensor) -> None:
        """After a control step: the episodes of ``dones`` [E] have ended, and others have begun."""

    def sample_uniform(self, *size: int) -> Tensor:
        """Numbers between 0 and 1 in a tensor of this ``size``, from the group's seed."""
        return torch.rand(size, generator=self.generator, device=self.generator.device)


class Damage(EvalCondition):
    """A change in the middle of every episode, once and for good."""

    damages = True

    @override
    def begin(self) -> None:
        self.steps = 0

    @override
    def step(self) -> None:
        if self.steps == self.group.damage_step:
            self.apply_damage()
        self.steps += 1

    @abstractmethod
    def apply_damage(self) -> None:
        """Apply the change in the middle of the episode."""


class Nominal(EvalCondition):
    """As trained."""

    text = "nothing changed"
