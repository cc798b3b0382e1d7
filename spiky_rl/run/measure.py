"""Loop that runs episodes for playback and evaluation, with one row of measurements per episode."""

from __future__ import annotations

import math
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
from spiky_rl.metrics.energy import InferenceCost


@dataclass(frozen=True)
class MeasuredStep:
    """A control step of all environments."""

    rewards: Tensor
    """[B]."""
    dones: Tensor
    """Whether each episode ended, [B]."""
    running: Tensor
    """Whether each environment was in a measured episode during this step, [B]."""
    rows: list[dict[str, float]]
    """One row per measured episode that ended: environment, return, length and the task's measures, except those that are nan."""
    share: float
    """Completed share of all episodes, in [0, 1]."""


def run_episodes(
    env: Any, act: Callable[[TensorDict, Tensor], Tensor], obs: TensorDict, quota: Sequence[int]
) -> Iterator[MeasuredStep]:
    """Step the environments until each has finished its ``quota`` of episodes, and yield every control step.

    Every environment has its own quota: the first episodes to end in any environment would be short ones too often.
    ``act`` maps observations and ``running`` [B] to actions [B, A]; ``obs`` are those of the reset environments.
    """
    remaining, total_episodes = list(quota), sum(quota)
    measures = env.make_measures()
    measures.reset()
    returns = torch.zeros(env.num_envs, device=env.device)
    lengths = torch.zeros(env.num_envs, device=env.device)
    running = torch.tensor([count > 0 for count in remaining], device=env.device)
    ended = 0
    while any(remaining):
        running_before = running.clone()
        obs, rewards, dones, _ = env.step(act(obs, running))
        returns += rewards
        lengths += 1
        # the measures have one value per ended episode, in the order of the environments
        values, rows = measures.step(dones), []
        for position, i in enumerate(dones.nonzero().flatten().tolist()):
            if remaining[i]:
                remaining[i] -= 1
                row = {"environment": i, "return": float(returns[i]), "length": int(lengths[i])}
                for name, ended_values in values.items():
                    value = float(ended_values[position])
                    if not math.isnan(value):
                        row[name] = value
                rows.append(row)
                running[i] = remaining[i] > 0
        ended += len(rows)
        continues = dones == 0
        returns *= continues
        lengths *= continues
        share = _compute_share(ended, total_episodes, remaining, lengths, int(env.max_episode_length))
        yield MeasuredStep(rewards, dones, running_before, rows, share)


def _compute_share(
    ended: int, total: int, remaining: Sequence[int], lengths: Tensor, max_episode_length: int
) -> float:
    """Return the completed share of all episodes; a current episode counts in proportion to the maximum length."""
    current = 0.0
    for count, steps in zip(remaining, lengths.tolist(), strict=True):
        if count:
            current += min(steps / max_episode_length, 1.0)
    return (ended + current) / total


class PolicyGroup:
    """A policy and its perturbed copies, each acting in its own environments."""

    def __init__(self, policy: InferencePolicy, groups: ConditionGroups) -> None:
        self.parts: list[tuple[Tensor, InferencePolicy]] = []
        """Indices of environments and the policy that acts in them; the unchanged policy first."""
        unchanged: list[Tensor] = []
        for index, (ids, adapts) in enumerate(zip(groups.ids, groups.adapts, strict=True)):
            copies = groups.perturb_policy(policy, index)
            if not copies and not adapts:
                unchanged.append(ids)
                continue
            copies = copies or [policy.copy()]
            for part, copy in zip(ids.tensor_split(len(copies)), copies, strict=True):
                copy.is_plastic = adapts
                self.parts.append((part, copy))
        if unchanged:
            self.parts.insert(0, (torch.cat(unchanged), policy))

    def __call__(self, obs: TensorDict) -> Tensor:
        """Return actions [B, A] for the observations of all environments."""
        if len(self.parts) == 1:
            return self.parts[0][1](obs)
        outputs = [policy(obs[ids]) for ids, policy in self.parts]
        actions = outputs[0].new_zeros(obs.batch_size[0], outputs[0].shape[-1])
        for (ids, _), output in zip(self.parts, outputs, strict=True):
            actions[ids] = output
        return actions

    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the hidden states of the environments with ``dones`` [B] not 0; all of them if ``dones`` is None."""
        for ids, policy in self.parts:
            policy.reset(None if dones is None else dones[ids])

    def compute_activities(self, obs: TensorDict, running: Tensor) -> list[tuple[int, PolicyActivity]]:
        """Return (number of its environments, activity) of every policy in the step after ``obs``.

        ``running`` are the indices of the environments to count; a policy that acts in none of them is left out.
        """
        activities = []
        for ids, policy in self.parts:
            positions = torch.isin(ids, running).nonzero().flatten()
            if len(positions):
                activities.append((len(positions), policy.compute_activity(obs[ids], positions)))
        return activities


def make_cost_record(cost: InferenceCost, ann_operations: float, actions_per_second: float) -> dict[str, Any]:
    """Return the ``cost`` of an action for a result file.

    Args:
        ann_operations: Multiply-accumulates of the equal-size ANN.
        actions_per_second: Actions of all environments per second of the policy's computing time.
    """
    return {
        **cost.to_dict(),
        "ann_dense_operations": ann_operations,
        "actions_per_second": actions_per_second,
        "effective_operations_per_second": cost.effective_operations * actions_per_second,
    }


def synchronize_time(device: torch.device | str) -> float:
    """Wait for all work on the ``device`` and return the time in seconds."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
