"""``--visualizer``: an environment that is watched live."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict

from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.run.run_plan import DEFAULT_VISIBLE_ENVS
from spiky_rl.run.spike_raster import SpikeRaster
from spiky_rl.run.wrapper import EnvWrapper


@dataclass(frozen=True)
class VisualizerSettings:
    """How a run is watched while it goes on."""

    visualizers: Sequence[str] | None = None
    """Names as Isaac Lab's ``--visualizer`` has them; none for an empty list, and the task's own for None."""
    visible: int = DEFAULT_VISIBLE_ENVS
    """Environments that are shown."""
    real_time: bool = False
    """Whether a control step takes as long as it does in the world, at least."""


class VisualizedEnv(EnvWrapper):
    """Lets the live views of an environment show the spikes of the policy that acts in it."""

    picture: SpikeRaster | None = None

    def __init__(self, env: Any, real_time: bool = False) -> None:
        """Look at its first environment.

        Args:
            env: As rsl_rl sees one.
            real_time: Whether a control step takes as long as it does in the world, at least.
        """
        super().__init__(env)
        self.period, self.due = env.step_dt if real_time else 0.0, 0.0
        env.set_default_camera()

    def set_policy(self, policy: InferencePolicy) -> None:
        """From now on, ``policy`` acts; of an ANN there are no spikes to show."""
        shown = self.env.get_live_views()
        if shown and policy.network is not None:
            self.picture = SpikeRaster(policy)
            for view in shown:
                view.picture = self.picture

    def get_observations(self) -> TensorDict:
        """As the environment's; who asks begins an episode."""
        obs = self.env.get_observations()
        if self.picture is not None:
            self.picture.add(obs, torch.ones(1))
        return obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """As the environment's: actions [B, A] -> observations, rewards [B], dones [B], and more."""
        obs, rewards, dones, extras = self.env.step(actions)
        if self.picture is not None:
            self.picture.add(obs, dones[:1])
        if self.period:
            time.sleep(max(0.0, self.due - time.monotonic()))
            self.due = time.monotonic() + self.period
        return obs, rewards, dones, extras
