"""The spikes of the last control steps, drawn while a policy acts and only when somebody looks."""

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
"""Pixels: what the side bar of a page shows without blurring the labels."""


class SpikeRaster:
    """The raster of environment 0.

    It keeps what the policy saw, and lets the network run over it once a picture is asked for: acting waits for nothing, and
    nothing that acts is touched. Where nobody looked for longer than a picture lasts, the network begins at rest with its first
    column.
    """

    def __init__(self, policy: InferencePolicy) -> None:
        """``policy``: a spiking one."""
        assert policy.network is not None
        self.policy, self.network = policy, policy.network
        self.panel = RasterPanel(WIDTH, HEIGHT, self.network.steps)
        self.state: State | None = None
        # what was seen since the last picture, and whether an episode began with it
        self.seen: deque[tuple[TensorDict, Tensor]] = deque(maxlen=self.panel.past.maxlen)

    def add(self, obs: TensorDict, episode_starts: Tensor) -> None:
        """Take over what the policy sees in the control step to come.

        Args:
            obs: Observations of all environments, [B, ...].
            begins: Whether an episode of environment 0 begins with it, [1].
        """
        if len(self.seen) == self.seen.maxlen:
            self.state = None
        self.seen.append((obs[:1].clone(), episode_starts.clone()))

    def __call__(self) -> Frame:
        """The picture as it stands; one of nothing before the first control step."""
        if self.seen:
            rows, begins = zip(*self.seen, strict=True)
            self.seen.clear()
            with torch.no_grad():
                x = self.policy.get_network_input(torch.cat(rows)).unsqueeze(1)  # type: ignore[arg-type]  # they are one TensorDict then
            record, self.state = record_steps(self.network, x, self.state, torch.cat(begins).to(x.device))
            spikes, _ = get_timelines(record, self.network.stateful)
            for step in zip(*(layer.unflatten(0, (len(rows), -1)) for layer in spikes), strict=True):
                self.panel.add(step)
        return self.panel.frame()
