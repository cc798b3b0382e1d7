"""Base classes of conditions, which perturb observations, actions, robots or networks in a group of environments."""

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
    """Error about a condition that is unknown, or not available for a task or an agent."""


@dataclass(frozen=True)
class EnvGroup:
    """Environments of a condition."""

    env: Env
    """Isaac Lab's own environment without wrappers."""
    ids: Tensor
    """Indices of the environments, [E]."""
    seed: int
    """Seed of the condition's random numbers."""
    sensors: Tensor
    """Index of the sensor of each observed value, [C], see `map_values_to_sensors`."""
    observation_std: Tensor
    """Standard deviation of each observed value under random actions, [C]."""
    damage_step: int = 0
    """Control step of damage in mid-episode: half of the maximum episode length."""
    leg: str = ""
    """Names of the joints of one leg, as a regular expression; empty if the task file names none."""


class EvalCondition(ABC):
    """Test-time disturbance of a group of environments."""

    text: ClassVar[str]
    """Description in one line, with the magnitude."""
    requirements: ClassVar[tuple[str, ...]] = ()
    """Requirements on task and agent: keys of `requirements.REQUIREMENTS`."""
    damages: ClassVar[bool] = False
    """Whether it begins in mid-episode, so that recovery can be measured."""

    def __init__(self, group: EnvGroup) -> None:
        self.group = group
        self.generator = torch.Generator(group.ids.device).manual_seed(group.seed)

    @classmethod
    def configure(cls, env_cfg: EnvCfg) -> None:
        """Prepare a task's ``env_cfg`` before the simulator starts; without effect until the condition acts."""

    def perturb_policy(  # pylint: disable=unused-argument
        self, policy: InferencePolicy
    ) -> list[InferencePolicy]:
        """Return the perturbed copies that replace ``policy``; empty if the policy itself acts.

        The environments of the group are divided evenly among the copies, in their order.
        """
        return []

    def begin(self) -> None:
        """Prepare the start of the group's episodes; called once."""

    def perturb_observations(self, values: Tensor) -> Tensor:
        """Return the perturbed observation ``values`` [E, C] for the policy; called once per control step."""
        return values

    def perturb_actions(self, actions: Tensor) -> Tensor:
        """Return the perturbed ``actions`` [E, A] for the robot; called once per control step."""
        return actions

    def step(self) -> None:
        """Apply the condition before a control step."""

    def reset(self, dones: Tensor) -> None:
        """Reset the condition where ``dones`` [E], after a control step."""

    def sample_uniform(self, *size: int) -> Tensor:
        """Return a tensor of shape ``size`` with U(0, 1) numbers from the group's seed."""
        return torch.rand(size, generator=self.generator, device=self.generator.device)


class Damage(EvalCondition):
    """Permanent change in the middle of the episode."""

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
    """Undisturbed condition."""

    text = "nothing changed"
