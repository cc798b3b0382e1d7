"""Measuring loop of playback and evaluation, with one row per episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.condition_groups import ConditionGroups
from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.learners.common.inference_policy import InferencePolicy


@dataclass(frozen=True)
class MeasuredStep:
    """A control step of all environments."""

    rewards: Tensor
    """[B]."""
    dones: Tensor
    """Whether each episode ended, [B]."""
    running: Tensor
    """Whether each environment still had a measured episode to end, [B]."""
    rows: list[dict[str, float]]
    """Measured episodes that ended: environment, return, length and the task's measures."""
    share: float
    """Completed share of all episodes, in [0, 1]."""


def run_episodes(
    env: Any, act: Callable[[TensorDict, Tensor], Tensor], obs: TensorDict, quota: Sequence[int]
) -> Iterator[MeasuredStep]:
    """Step the environments until each has ended its ``quota`` of episodes, and yield every control step.

    Every environment has its own quota, because counting the first episodes to end would favour short ones.

    Args:
        env: The host's environments, just reset.
        act: Returns actions [B, A] for observations and ``running`` [B].
        obs: First observations.
        quota: Number of episodes from each environment.
    """
    left, total_episodes = list(quota), sum(quota)
    measures = env.make_measures()
    measures.reset()
    returns, lengths = (torch.zeros(env.num_envs, device=env.device) for _ in range(2))
    running = torch.tensor([count > 0 for count in left], device=env.device)
    ended = 0
    while any(left):
        before = running.clone()
        obs, rewards, dones, _ = env.step(act(obs, running))
        returns += rewards
        lengths += 1
        values, rows = measures.step(dones), []
        for place, i in enumerate(dones.nonzero().flatten().tolist()):
            if left[i]:
                left[i] -= 1
                row = {"environment": i, "return": float(returns[i]), "length": int(lengths[i])}
                rows.append(row | {name: float(found[place]) for name, found in values.items()})
                running[i] = left[i] > 0
        ended += len(rows)
        over = dones == 0
        returns *= over
        lengths *= over
        share = _compute_share(ended, total_episodes, left, lengths, int(env.max_episode_length))
        yield MeasuredStep(rewards, dones, before, rows, share)


def _compute_share(
    ended: int, total: int, left: Sequence[int], lengths: Tensor, max_episode_length: int
) -> float:
    """Return the completed share of all episodes; a current episode counts in proportion to the maximum length."""
    parts = sum(
        min(steps / max_episode_length, 1.0)
        for count, steps in zip(left, lengths.tolist(), strict=True)
        if count
    )
    return (ended + parts) / total


class PolicyGroup:
    """A policy and its perturbed copies, each acting in its own environments."""

    def __init__(self, policy: InferencePolicy, groups: ConditionGroups) -> None:
        self.parts: list[tuple[Tensor, InferencePolicy]] = []
        """Environments and the policy that acts in them; the unchanged policy first."""
        shared: list[Tensor] = []
        for index, (ids, adapts) in enumerate(zip(groups.ids, groups.adapts, strict=True)):
            own = groups.perturb_policy(policy, index)
            if not own and not adapts:
                shared.append(ids)
                continue
            own = own or [policy.copy()]
            for part, copy in zip(ids.tensor_split(len(own)), own, strict=True):
                copy.is_plastic = adapts
                self.parts.append((part, copy))
        if shared:
            self.parts.insert(0, (torch.cat(shared), policy))

    def __call__(self, obs: TensorDict) -> Tensor:
        """Return actions [B, A] for the observations of all environments."""
        if len(self.parts) == 1:
            return self.parts[0][1](obs)
        found = [(ids, policy(obs[ids])) for ids, policy in self.parts]
        actions = found[0][1].new_zeros(obs.batch_size[0], found[0][1].shape[-1])
        for ids, part in found:
            actions[ids] = part
        return actions

    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the hidden states where ``dones`` [B]; without ``dones``, all of them."""
        for ids, policy in self.parts:
            policy.reset(None if dones is None else dones[ids])

    def compute_activities(self, obs: TensorDict, running: Tensor) -> list[tuple[int, PolicyActivity]]:
        """Return, for every policy that acts in environments ``running``, their number and its activity in the step after ``obs``."""
        return [
            (len(part), policy.compute_activity(obs[ids], part))
            for ids, policy in self.parts
            if len(part := torch.isin(ids, running).nonzero().flatten())
        ]


def synchronize_time(device: torch.device | str) -> float:
    """Wait for all work on the ``device`` and return the time in seconds."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
