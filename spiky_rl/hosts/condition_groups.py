"""Environments that are shared out among conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.learners.common.inference_policy import InferencePolicy


class RandomPolicy:
    """Actions of N(0, 1), the same for episode i of every condition."""

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
    """Consecutive groups of environments, one for each condition and with as many environments as episodes.

    All groups are reset from the same seed, so that episode i of every condition begins in the same state, where a host can reset some
    of its environments alone. This class changes nothing; a host with conditions derives one that does.
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
        """Share the environments out among the conditions.

        Args:
            env: The host's, with ``len(names) * episodes`` environments, twice as many if ``adapting``.
            names: Names of the conditions.
            episodes: Episodes per condition.
            groups: Observation groups that the policy sees.
            seed: Seed of all that is drawn.
            leg: Names of the joints of one leg, as a regular expression.
            adapting: Whether the policy is measured twice under every condition: with its weights as they are, and changing as it acts.
        """
        self.env, self.episodes, self.seed, self.leg = env, episodes, seed, leg
        self.groups, self.names = list(groups), list(names) * (1 + adapting)
        self.adapts = [i >= len(names) for i in range(len(self.names))]
        self.ids = torch.arange(env.num_envs, device=env.device).split(episodes)
        self.texts = ["nothing changed"] * len(self.names)
        """What each condition does, with its magnitude."""
        self.damages = [False] * len(self.names)
        """Whether each condition begins in the middle of an episode."""

    def make_random_policy(self) -> RandomPolicy:
        """Return random actions, from the beginning of their sequence."""
        return RandomPolicy(len(self.ids), self.episodes, self.env.num_actions, self.seed, self.env.device)

    def restart(self) -> TensorDict:
        """Begin an episode in every environment and return the first observations."""
        return self.env.restart(self.ids, self.seed)

    def begin(self) -> None:
        """Get ready for the first control step of all episodes."""

    def step(self) -> None:
        """Act before every control step."""

    def reset(self, dones: Tensor) -> None:
        """Begin anew in the environments whose episodes are ``dones`` [B]."""

    def perturb_policy(
        self, policy: InferencePolicy, index: int
    ) -> list[InferencePolicy]:  # pylint: disable=unused-argument
        """Return the changed copies that act in the place of ``policy`` under condition ``index``; empty if the policy itself acts.

        The copies share the environments of the group evenly, in their order.
        """
        return []

    def perturb_observations(self, obs: TensorDict) -> TensorDict:
        """Return the observations ``obs`` as the policy receives them. Call it once per control step."""
        return obs

    def perturb_actions(self, actions: Tensor) -> Tensor:
        """Return the ``actions`` [B, A] as they reach the robots. Call it once per control step."""
        return actions
