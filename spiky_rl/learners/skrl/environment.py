"""skrl's wrapper of an rsl_rl environment, which keeps its timing, checks and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from skrl.envs.wrappers.torch import Wrapper
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.registry import UserError, suggest_name
from spiky_rl.learners.common.interfaces import VectorEnv


class SkrlEnv(Wrapper):
    """skrl wrapper around an rsl_rl environment."""

    def __init__(
        self,
        env: VectorEnv,
        obs_groups: Mapping[str, Sequence[str]],
        states: bool,
        action_bound: float = np.inf,
    ) -> None:
        """Wrap the rsl_rl environment ``env`` for actions of at most ``action_bound`` in size.

        ``obs_groups`` are those of ``actor`` and ``critic``; ``states``: whether the critic uses skrl's states.
        """
        super().__init__(env)
        self.action_bound = action_bound
        self.actor, self.critic = list(obs_groups["actor"]), list(obs_groups["critic"]) if states else None
        self._device = torch.device(env.device)
        self._obs = env.get_observations()
        vectors = {str(name) for name, values in self._obs.items() if values.ndim == 2}
        for role, groups in (("actor", self.actor), ("critic", self.critic or ())):
            for group in groups:
                if group not in vectors:
                    raise UserError(
                        f"agent.obs_groups.{role}: {group!r} is not a group of vectors of this task; allowed:"
                        f" {', '.join(sorted(vectors)) or 'none'}{suggest_name(group, vectors)}"
                    )

    @property
    def num_envs(self) -> int:
        """Number of environments, B."""
        return self._env.num_envs

    @property
    def observation_space(self) -> gymnasium.Space:
        """Observation space of the actor in one environment."""
        return _box(self.get_actor_observations(self._obs).shape[-1])

    @property
    def state_space(self) -> gymnasium.Space | None:
        """Observation space of the critic in one environment; None if the critic uses no states."""
        states = self.get_critic_observations(self._obs)
        return None if states is None else _box(states.shape[-1])

    @property
    def action_space(self) -> gymnasium.Space:
        """Action space of one environment; by default unbounded, as in Isaac Lab."""
        return _box(self._env.num_actions, self.action_bound)

    def get_actor_observations(self, obs: TensorDict) -> Tensor:
        """Return the actor's observations in ``obs``, [B, O]."""
        return torch.cat([obs[group] for group in self.actor], dim=-1)

    def get_critic_observations(self, obs: TensorDict) -> Tensor | None:
        """Return the critic's observations in ``obs``, [B, S], or None if they are the actor's."""
        if self.critic is None:
            return None
        return torch.cat([obs[group] for group in self.critic], dim=-1)

    def get_successors(self, extras: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the actor's and the critic's observations that follow the latest actions in the same episodes.

        Where an episode ended, the latest observations belong to the next one. An environment with ``final_observations`` in
        its ``extras`` gives the true successors; for any other one, such as Isaac Lab's tasks, the latest observations are returned.
        """
        obs = extras.get("final_observations", self._obs)
        return self.get_actor_observations(obs), self.get_critic_observations(obs)

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        """Return the current observations without a reset, because a training starts in the current state, as in rsl_rl."""
        self._obs = self._env.get_observations()
        return self.get_actor_observations(self._obs), {}

    def state(self) -> Tensor | None:
        """Return the critic's latest observations, or None."""
        return self.get_critic_observations(self._obs)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        """Simulate a control step.

        ``actions`` [B, A] -> observations [B, O], rewards, terminations and truncations [B, 1], and the environment's extras. An episode
        that fails in the step in which its time is up is terminated.
        """
        self._obs, rewards, dones, extras = self._env.step(actions)
        done = dones.view(-1, 1) > 0
        nowhere = torch.zeros_like(done)
        is_terminated = extras.get("terminated", nowhere).view(-1, 1) > 0
        is_time_out = extras.get("time_outs", nowhere).view(-1, 1) > 0
        truncated = done & is_time_out & ~is_terminated
        return (
            self.get_actor_observations(self._obs),
            rewards.view(-1, 1),
            done & ~truncated,
            truncated,
            extras,
        )

    def render(self, *args: object, **kwargs: object) -> None:
        """Do nothing: videos are recorded elsewhere."""

    def close(self) -> None:
        """Do nothing: the environment is closed where it was opened."""


def _box(width: int, bound: float = np.inf) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-bound, bound, (width,), np.float32)
