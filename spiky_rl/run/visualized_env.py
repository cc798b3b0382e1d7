"""Environment to watch: it shows the policy's spikes in live views (``--visualizer``) and can run in real time."""

from __future__ import annotations

import time
from typing import Any

import torch
from tensordict import TensorDict

from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.run.spike_raster import SpikeRaster
from spiky_rl.run.wrapper import EnvWrapper


class VisualizedEnv(EnvWrapper):
    """Environment whose live views show the spikes of the acting policy, in real time if requested."""

    picture: SpikeRaster | None = None

    def __init__(self, env: Any, real_time: bool = False) -> None:
        """Point the camera at the first environment.

        In real time a control step takes at least its simulated duration. Somebody then watches one robot, so the camera follows it.
        """
        super().__init__(env)
        self.step_seconds = env.step_dt if real_time else 0.0
        """Least duration of a control step in seconds; 0 if steps are not delayed."""
        self.next_step_at = 0.0
        """Earliest end of the next control step, by `time.monotonic`."""
        env.set_default_camera(follows=real_time)

    def set_policy(self, policy: InferencePolicy) -> None:
        """Show the spikes of ``policy`` in the live views; an ANN has none."""
        views = self.env.get_live_views()
        if views and policy.network is not None:
            self.picture = SpikeRaster(policy)
            for view in views:
                view.picture = self.picture

    def get_observations(self) -> TensorDict:
        """Return the observations. They are read once, before the first step, so the raster is told that an episode begins."""
        obs = self.env.get_observations()
        if self.picture is not None:
            self.picture.add(obs, episode_starts=torch.ones(1, device=self.env.device))
        return obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """Step the environment: actions [B, A] -> observations, rewards [B], dones [B], extras."""
        obs, rewards, dones, extras = self.env.step(actions)
        if self.picture is not None:
            self.picture.add(obs, episode_starts=dones[:1])
        if self.step_seconds:
            time.sleep(max(0.0, self.next_step_at - time.monotonic()))
            self.next_step_at = time.monotonic() + self.step_seconds
        return obs, rewards, dones, extras
