"""Films of playback and of training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.video import Frame, RasterPanel, concat_frames, write_video
from spiky_rl.run.wrapper import EnvWrapper

log = logging.getLogger(__name__)


def record_video(
    env: Any, policy: InferencePolicy, path: Path, steps: int, progress: ProgressFactory = no_progress
) -> list[Path]:
    """Play from a fresh episode, and film environment 0 with its spikes beside it, or alone for an ANN.

    Args:
        env: As rsl_rl sees one.
        policy: Acts in it.
        path: The film; a GIF is written beside it.
        steps: Control steps.
        shown: Shows how far it is.

    Returns:
        The files.
    """
    log.info("filming %d control steps of new episodes", steps)
    panel = RasterPanel(steps=policy.network.steps if policy.network is not None else 1)
    frames: list[Frame] = []
    with progress("filming", f"{steps} control steps") as tell:
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
                tell((step + 1) / steps)
        camera.close()
    log.info("writing %s and its GIF", path)
    return write_video(path, frames, 1.0 / env.step_dt)


class VideoRecorder(EnvWrapper):
    """An environment that films a clip of itself every ``interval`` control steps while it is trained on."""

    def __init__(self, env: Any, folder: Path, length: int, interval: int) -> None:
        """Open its camera.

        Args:
            env: As rsl_rl sees one.
            folder: Where the clips go.
            length: Control steps of a clip.
            interval: Control steps from one clip's beginning to the next one's.
        """
        super().__init__(env)
        self.folder, self.length, self.interval = folder, length, interval
        self.camera = env.open_camera()
        self.count = 0
        self.frames: list[Frame] = []

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """As the environment's: actions [B, A] -> observations, rewards [B], dones [B], and more."""
        if self.count % self.interval < self.length:
            self.frames.append(self.camera.render())
        self.count += 1
        if len(self.frames) == self.length:
            self.write()
        return self.env.step(actions)

    def write(self) -> None:
        """Write the clip at hand, whole or not."""
        if self.frames:
            path = self.folder / f"step-{self.count - len(self.frames)}.mp4"
            log.info("film: %s", write_video(path, self.frames, 1.0 / self.env.step_dt)[0])
            self.frames = []

    def finish(self) -> None:
        """Write what is left and close the camera."""
        self.write()
        self.camera.close()
