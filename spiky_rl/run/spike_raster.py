"""Live spike raster of the last control steps, drawn on request."""

from __future__ import annotations

from collections import deque

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.learners.common.activity import record_steps
from spiky_rl.learners.common.inference_policy import InferencePolicy
from spiky_rl.metrics.spikes import get_timelines
from spiky_rl.metrics.video import Frame, RasterPanel
from spiky_rl.networks.base import State

WIDTH, HEIGHT = 560, 640
"""Size in pixels; a page's side bar shows it without blurring the labels."""


class SpikeRaster:
    """Spike raster of environment 0.

    The raster stores observations and runs the network over them only when a picture is requested, with a state of its own:
    the acting policy neither waits nor changes. If the last picture is older than the raster's width, the network starts from
    the zero state.
    """

    def __init__(self, policy: InferencePolicy) -> None:
        """Initialise the raster of a spiking ``policy``."""
        assert policy.network is not None
        self.policy, self.network = policy, policy.network
        self.panel = RasterPanel(WIDTH, HEIGHT, self.network.steps)
        self.state: State | None = None
        self.pending: deque[tuple[TensorDict, Tensor]] = deque(maxlen=self.panel.past.maxlen)
        """Observations since the last picture, and whether an episode began with each; at most as many as the panel shows."""

    def add(self, obs: TensorDict, episode_starts: Tensor) -> None:
        """Store the observations [B, ...] of the next control step.

        ``episode_starts`` [1] tells whether an episode of environment 0 begins with this step.
        """
        if len(self.pending) == self.pending.maxlen:
            self.state = None  # the oldest observation, which follows that state, is dropped now
        self.pending.append((obs[:1].clone(), episode_starts.clone()))

    def __call__(self) -> Frame:
        """Return the current picture, which is empty before the first control step."""
        if self.pending:
            rows, begins = zip(*self.pending, strict=True)
            self.pending.clear()
            with torch.no_grad():
                x = self.policy.get_network_input(torch.cat(rows)).unsqueeze(1)  # type: ignore[arg-type]  # torch.cat gives a TensorDict
            record, self.state = record_steps(self.network, x, self.state, torch.cat(begins).to(x.device))
            spikes, _ = get_timelines(record, self.network.stateful)
            for step in zip(*(layer.unflatten(0, (len(rows), -1)) for layer in spikes), strict=True):
                self.panel.add(step)
        return self.panel.frame()
