"""The measuring loop of playback and evaluation: episodes of a policy, one row each."""

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
    """Whether each environment was still to end an episode that counts, [B]."""
    rows: list[dict[str, float]]
    """The episodes that ended and count: environment, return, length and the task's measures."""
    share: float
    """Share of all episodes that is done, in [0, 1]."""


def run_episodes(
    env: Any, act: Callable[[TensorDict, Tensor], Tensor], obs: TensorDict, quota: Sequence[int]
) -> Iterator[MeasuredStep]:
    """Step the environments until each has ended its ``quota`` of episodes, and yield every control step.

    Counting whichever episodes end first would favour the short ones: therefore every environment has a quota of its own.

    Args:
        env: The host's environments, which have just begun their episodes.
        act: Returns actions [B, A] for observations and the environments that still count, [B].
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
    """Return the share of all episodes that is done; those at hand count as if none ended early."""
    parts = sum(
        min(steps / max_episode_length, 1.0)
        for count, steps in zip(left, lengths.tolist(), strict=True)
        if count
    )
    return (ended + parts) / total


class PolicyGroup:
    """A policy and the changed copies of it that conditions put in its place, each on its own environments."""

    def __init__(self, policy: InferencePolicy, groups: ConditionGroups) -> None:
        self.parts: list[tuple[Tensor, InferencePolicy]] = []
        """Environments, and the policy that acts on them; the unchanged policy first."""
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
        """Put the environments that are ``dones`` [B] at rest; without ``dones``, all of them."""
        for ids, policy in self.parts:
            policy.reset(None if dones is None else dones[ids])

    def compute_activities(self, obs: TensorDict, running: Tensor) -> list[tuple[int, PolicyActivity]]:
        """Return the activity in the control step that begins with ``obs`` of every policy that acts on environments ``running``.

        Each activity stands beside the number of those environments.
        """
        return [
            (len(part), policy.compute_activity(obs[ids], part))
            for ids, policy in self.parts
            if len(part := torch.isin(ids, running).nonzero().flatten())
        ]


def synchronize_time(device: torch.device | str) -> float:
    """Return the time in seconds when all work that was begun on the ``device`` is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
