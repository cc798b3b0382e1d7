"""``--visualizer``: an environment with a live view."""

from __future__ import annotations

import time
from typing import Any

import torch
from tensordict import TensorDict

from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.run.spike_raster import SpikeRaster
from spiky_rl.run.wrapper import EnvWrapper


class VisualizedEnv(EnvWrapper):
    """Environment whose live views show the spikes of the acting policy."""

    picture: SpikeRaster | None = None

    def __init__(self, env: Any, real_time: bool = False) -> None:
        """Point the camera at the first environment; in real time it follows the robot.

        Args:
            env: The rsl_rl environment.
            real_time: Whether a control step takes at least its simulated duration.
        """
        super().__init__(env)
        self.period, self.due = env.step_dt if real_time else 0.0, 0.0
        env.set_default_camera(follows=real_time)

    def set_policy(self, policy: InferencePolicy) -> None:
        """Show the spikes of ``policy`` in the live views; an ANN has none."""
        shown = self.env.get_live_views()
        if shown and policy.network is not None:
            self.picture = SpikeRaster(policy)
            for view in shown:
                view.picture = self.picture

    def get_observations(self) -> TensorDict:
        """Return the environment's observations, which begin an episode."""
        obs = self.env.get_observations()
        if self.picture is not None:
            self.picture.add(obs, torch.ones(1))
        return obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """Step the environment: actions [B, A] -> observations, rewards [B], dones [B], extras."""
        obs, rewards, dones, extras = self.env.step(actions)
        if self.picture is not None:
            self.picture.add(obs, dones[:1])
        if self.period:
            time.sleep(max(0.0, self.due - time.monotonic()))
            self.due = time.monotonic() + self.period
        return obs, rewards, dones, extras
