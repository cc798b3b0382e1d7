"""Scaling of the rewards in training by the running standard deviation of the discounted return."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8
CLIP = 10.0
"""Maximum absolute value of a scaled reward."""


class RewardScaler(nn.Module):
    """Scaler with the arithmetic of Gymnasium's ``NormalizeReward`` over all environments, and CleanRL's clipping.

    Its state belongs to a checkpoint. Each process of a distributed training has its own.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    returns: Tensor
    """Discounted returns of the current episodes so far, [B]."""

    def __init__(self, num_envs: int, gamma: float) -> None:
        """Initialise for ``num_envs`` environments and the discount factor ``gamma``."""
        super().__init__()
        self.gamma = gamma
        for name, value in (("mean", 0.0), ("var", 1.0), ("count", 1e-4)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("returns", torch.zeros(num_envs, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def forward(self, rewards: Tensor, terminated: Tensor, ended: Tensor) -> Tensor:
        """Return scaled ``rewards`` [B], and take the discounted returns so far into the running variance.

        Of the episodes that ``ended`` [B], the task and not the time limit ended the ``terminated`` ones [B].
        """
        # in place, because rollouts run in inference mode, whose new tensors no checkpoint could be loaded into
        self.returns.mul_(self.gamma * ~terminated).add_(rewards)
        batch = len(rewards)
        delta, total = self.returns.mean() - self.mean, self.count + batch
        spread = self.var * self.count + self.returns.var(correction=0) * batch
        self.var.copy_((spread + delta.square() * self.count * batch / total) / total)
        self.mean.add_(delta * batch / total)
        self.count.copy_(total)
        self.returns.mul_(~ended)
        scaled = rewards / (self.var + EPSILON).sqrt()
        return scaled.clamp(-CLIP, CLIP).to(rewards.dtype)
