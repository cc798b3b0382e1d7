"""Videos of playback and training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from spiky_rl.config.progress import ProgressFactory, format_count, no_progress
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.video import Frame, RasterPanel, concat_frames, write_video
from spiky_rl.run.wrapper import EnvWrapper

log = logging.getLogger(__name__)


def record_video(
    env: Any, policy: InferencePolicy, path: Path, steps: int, progress: ProgressFactory = no_progress
) -> list[Path]:
    """Play new episodes and record a video of environment 0, beside its spike raster if the policy spikes.

    Returns the written files: the video at ``path`` and a GIF beside it.
    """
    log.info("recording %d control steps of new episodes", steps)
    panel = RasterPanel(steps=policy.network.steps if policy.network is not None else 1)
    frames: list[Frame] = []
    with progress("recording", format_count(steps, "control step")) as report_progress:
        camera = env.open_camera()
        with torch.inference_mode():
            env.reset()
            policy.reset()
            obs = env.get_observations()
            for step in range(steps):
                if (spikes := policy.compute_spikes(obs)) is not None:
                    panel.add(spikes)
                    frames.append(concat_frames(camera.render(), panel.frame()))
                else:
                    frames.append(camera.render())
                obs, _, dones, _ = env.step(policy(obs))
                policy.reset(dones)
                report_progress((step + 1) / steps)
        camera.close()
    log.info("writing %s and its GIF", path)
    return write_video(path, frames, 1.0 / env.step_dt)


class VideoRecorder(EnvWrapper):
    """Training environment that records a video clip every ``interval`` control steps."""

    def __init__(self, env: Any, folder: Path, length: int, interval: int) -> None:
        """Open the camera; a clip of ``length`` control steps begins every ``interval`` control steps."""
        super().__init__(env)
        self.folder, self.length, self.interval = folder, length, interval
        self.camera = env.open_camera()
        self.step_count = 0
        self.frames: list[Frame] = []
        """Frames of the current clip."""

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """Step the environment: actions [B, A] -> observations, rewards [B], dones [B], extras."""
        if self.step_count % self.interval < self.length:
            self.frames.append(self.camera.render())
        self.step_count += 1
        if len(self.frames) == self.length:
            self.write()
        return self.env.step(actions)

    def write(self) -> None:
        """Write the current clip, complete or not."""
        if self.frames:
            first_step = self.step_count - len(self.frames)
            path = self.folder / f"step-{first_step}.mp4"
            log.info("video: %s", write_video(path, self.frames, 1.0 / self.env.step_dt)[0])
            self.frames = []

    def finish(self) -> None:
        """Write the current clip and close the camera."""
        self.write()
        self.camera.close()
