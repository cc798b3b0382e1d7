"""Groups of environments, one per condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.learners.common.inference_policy import InferencePolicy


class RandomPolicy:
    """Random actions N(0, 1), the same for episode i of every condition."""

    def __init__(
        self, conditions: int, episodes: int, actions: int, seed: int, device: torch.device | str
    ) -> None:
        self.shape, self.copies = (episodes, actions), conditions
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, obs: TensorDict) -> Tensor:  # pylint: disable=unused-argument
        """Return random actions [B, A], whatever ``obs`` is."""
        drawn = torch.randn(self.shape, generator=self.generator, device=self.generator.device)
        return drawn.repeat(self.copies, 1)

    def reset(self, dones: Tensor | None = None) -> None:
        """Do nothing, whatever is in ``dones``: random actions have no state."""


class ConditionGroups:
    """Consecutive groups of environments, one group per condition and one environment per episode.

    All groups are reset from the same seed. If the host can reset single environments, episode i begins in the same state under
    every condition. What the task itself draws in mid-episode, such as noise and commands, differs between the environments of a
    simulation, but not between two policies. This class perturbs nothing; a host with conditions derives its own class.
    """

    def __init__(
        self,
        env: Any,
        names: Sequence[str],
        episodes: int,
        groups: Sequence[str],
        seed: int,
        leg: str = "",
        adapting: bool = False,
    ) -> None:
        """Divide the environments among the conditions.

        Args:
            env: The host's environment, with ``len(names) * episodes`` environments, twice as many if ``adapting``.
            names: Names of the conditions.
            episodes: Episodes per condition.
            groups: Observation groups of the policy.
            seed: Seed of all random numbers.
            leg: Names of the joints of one leg, as a regular expression.
            adapting: Whether to measure the policy twice per condition, with fixed weights and with weights that change as it acts.
        """
        self.env, self.episodes, self.seed, self.leg = env, episodes, seed, leg
        self.groups, self.names = list(groups), list(names) * (1 + adapting)
        self.adapts = [i >= len(names) for i in range(len(self.names))]
        self.ids = torch.arange(env.num_envs, device=env.device).split(episodes)
        self.texts = ["nothing changed"] * len(self.names)
        """Description of each condition, with its magnitude."""
        self.damages = [False] * len(self.names)
        """Whether each condition is damage in mid-episode."""
        self.prepare()

    def prepare(self) -> None:
        """Prepare the conditions, at the end of the constructor."""

    def make_random_policy(self) -> RandomPolicy:
        """Return a random policy at the start of its sequence."""
        return RandomPolicy(len(self.ids), self.episodes, self.env.num_actions, self.seed, self.env.device)

    def restart(self) -> TensorDict:
        """Begin an episode in every environment and return the first observations."""
        torch.manual_seed(
            self.seed
        )  # for draws in mid-episode: networks have drawn as many numbers as they have weights
        return self.env.restart(self.ids, self.seed)

    def begin(self) -> None:
        """Prepare the first control step of all episodes."""

    def step(self) -> None:
        """Apply the conditions before a control step."""

    def reset(self, dones: Tensor) -> None:
        """Reset the conditions where ``dones`` [B]."""

    def perturb_policy(  # pylint: disable=unused-argument
        self, policy: InferencePolicy, index: int
    ) -> list[InferencePolicy]:
        """Return the perturbed copies that replace ``policy`` under condition ``index``; empty if the policy itself acts.

        The environments of the group are divided evenly among the copies, in their order.
        """
        return []

    def perturb_observations(self, obs: TensorDict) -> TensorDict:
        """Return the perturbed observations ``obs`` for the policy. Call it once per control step."""
        return obs

    def perturb_actions(self, actions: Tensor) -> Tensor:
        """Return the perturbed ``actions`` [B, A] for the robots. Call it once per control step."""
        return actions
