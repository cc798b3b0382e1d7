"""Statistics of ended episodes: gathered on the device, fetched by the CPU once per iteration."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

WINDOW = 100
"""Number of episodes in a mean, as in rsl_rl."""


class EpisodeStatistics:
    """Returns and lengths of the latest episodes. A control step does not wait for the device; only `fetch` does."""

    def __init__(self, num_envs: int, device: torch.device | str) -> None:
        self.returns: deque[float] = deque(maxlen=WINDOW)
        self.lengths: deque[float] = deque(maxlen=WINDOW)
        self._return = torch.zeros(num_envs, device=device)
        self._length = torch.zeros(num_envs, device=device)
        self._steps: list[Tensor] = []

    def add(self, rewards: Tensor, ended: Tensor) -> None:
        """Count a control step: rewards [B], and whether an episode ended with it [B]."""
        keep = (~ended).to(self._return.dtype)
        self._return, self._length = self._return + rewards, self._length + 1
        self._steps.append(torch.stack([self._return, self._length, keep]))
        self._return, self._length = self._return * keep, self._length * keep

    def fetch(self) -> None:
        """Fetch the episodes that ended since the last call; this waits for the device."""
        if not self._steps:
            return
        returns, lengths, left = torch.stack(self._steps, 1).cpu().numpy()
        self._steps.clear()
        self.returns.extend(returns[left == 0].tolist())
        self.lengths.extend(lengths[left == 0].tolist())
