"""rsl_rl's view of an environment as skrl's: timing, checks and films of the one serve the other."""

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
    """skrl's wrapper around what rsl_rl's runner takes as an environment."""

    def __init__(self, env: VectorEnv, obs_groups: Mapping[str, Sequence[str]], states: bool) -> None:
        """``obs_groups``: what ``actor`` and ``critic`` see; ``states``: whether the critic sees it as skrl's states."""
        super().__init__(env)
        self.actor, self.critic = list(obs_groups["actor"]), list(obs_groups["critic"]) if states else None
        self._device = torch.device(env.device)
        self._obs = env.get_observations()
        for role, groups in (("actor", self.actor), ("critic", self.critic or ())):
            for group in groups:
                there = {str(name) for name, values in self._obs.items() if values.ndim == 2}
                if group not in there:
                    raise UserError(
                        f"agent.obs_groups.{role}: {group!r} is no group of vectors of this task; it has"
                        f" {', '.join(sorted(there)) or 'none'}{suggest_name(group, there)}"
                    )

    @property
    def num_envs(self) -> int:
        """B."""
        return self._env.num_envs

    @property
    def observation_space(self) -> gymnasium.Space:
        """Space of what one environment's actor observes."""
        return _box(self.get_actor_observations(self._obs).shape[-1])

    @property
    def state_space(self) -> gymnasium.Space | None:
        """Space of what one environment's critic observes; None where it has no states."""
        states = self.get_critic_observations(self._obs)
        return None if states is None else _box(states.shape[-1])

    @property
    def action_space(self) -> gymnasium.Space:
        """Unbounded, as Isaac Lab's."""
        return _box(self._env.num_actions)

    def get_actor_observations(self, obs: TensorDict) -> Tensor:
        """Observation of the actor in ``obs``, [B, O]."""
        return torch.cat([obs[group] for group in self.actor], dim=-1)

    def get_critic_observations(self, obs: TensorDict) -> Tensor | None:
        """Observation of the critic in ``obs``, [B, S]; None if it is the actor's."""
        if self.critic is None:
            return None
        return torch.cat([obs[group] for group in self.critic], dim=-1)

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        """Current observations, without a reset: like rsl_rl's, skrl's runner starts where the environments stand."""
        self._obs = self._env.get_observations()
        return self.get_actor_observations(self._obs), {}

    def state(self) -> Tensor | None:
        """The critic's latest observation, or None."""
        return self.get_critic_observations(self._obs)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Any]:
        """Act for a control step.

        ``actions`` [B, A] -> observations [B, O], rewards, terminations and truncations [B, 1], and the environment's own extras.
        """
        self._obs, rewards, dones, extras = self._env.step(actions)
        done = dones.view(-1, 1) > 0
        cut = extras.get("time_outs")
        truncated = torch.zeros_like(done) if cut is None else done & (cut.view(-1, 1) > 0)
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
        """Do nothing: whoever opened the environment closes it."""


def _box(width: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
