"""Measures of a task's aim per episode, besides the reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.hosts.gymnasium.environment import GymnasiumVecEnv

VELOCITY = "x_velocity"
"""Key of Gymnasium's infos: forward velocity in m/s, which its MuJoCo robots have."""


class EpisodeMeasures:
    """Measures of every environment's episode: call ``step`` after each environment step, ``reset`` after a full reset.

    ``distance`` is the way forward in m, on tasks that tell the forward velocity and their control period.
    """

    def __init__(self, env: GymnasiumVecEnv) -> None:
        self.env = env
        self.distance = np.zeros(env.num_envs)

    def reset(self) -> None:
        """Start new episodes in all environments."""
        self.distance[:] = 0.0

    def step(self, dones: Tensor) -> dict[str, Tensor]:
        """Return the measures of the episodes that end with ``dones`` [B], by name, each [number of ended episodes]."""
        velocity, measures = read_info(self.env.latest_infos, VELOCITY, self.env.num_envs), {}
        ended = dones.cpu().numpy() > 0
        if velocity is not None and self.env.control_period is not None:
            self.distance += velocity * self.env.control_period
            distance = torch.as_tensor(self.distance[ended], dtype=torch.float32, device=dones.device)
            measures["distance"] = distance
        self.distance[ended] = 0.0
        return measures


def read_info(infos: Mapping[str, Any], key: str, num_envs: int) -> NDArray[np.float64] | None:
    """Return a number of all environments' infos after a step, [B], or None if the task does not give it, or no number.

    Where an episode ended, ``infos`` are of the next episode, and the ended one's are below ``final_info``.
    """
    values, known = np.zeros(num_envs), np.zeros(num_envs, dtype=bool)
    for source in (infos, infos.get("final_info", {})):
        found = np.asarray(source.get(key))
        if found.shape == (num_envs,) and found.dtype.kind in "iuf":
            present = np.asarray(source.get(f"_{key}", np.ones(num_envs, dtype=bool)))
            values[present] = found[present]
            known |= present
    return values if known.any() else None
