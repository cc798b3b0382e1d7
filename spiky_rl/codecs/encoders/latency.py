"""Latency: Gaussian receptive fields that spike the earlier, the better the observation fits.

    activity a = exp(-(x - mu)^2 / (2 sigma^2)), for P centres mu spread evenly over [-span, span], sigma = spacing / sharpness
    spike in inner step round((K - 1) (1 - a)) of 0 .. K - 1;   none where a < cutoff

There is at most one spike per channel and control step, so an observation needs a few spikes for any number of inner steps.
Fields are fixed: a spike time has no useful derivative, and no gradient reaches x. Observations are clipped to plus or minus
``span``: agents with this encoder set ``actor.obs_normalization: true``. With one inner step, all fields above the cutoff spike
at once.

Source: Bohte, Kok & La Poutre (2002), with their sharpness of 1.5 and their cutoff at a tenth of the time.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option


class Latency(Encoder):
    """[T, B, O] -> spikes [T, K, B, O P]."""

    binary = True

    class Options(Settings):
        fields: int = option(8, "P: receptive fields per observation", low=2)
        span: float = option(3.0, "outermost centres, in units of the (normalised) observation", low=1e-3)
        sharpness: float = option(
            1.5, "distance between neighbouring centres in standard deviations of a field", low=1e-3
        )
        cutoff: float = option(0.1, "activity below which a field stays silent", low=0.0, high=1.0)

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width = inputs * options.fields
        self.steps, self.span, self.cutoff = steps, options.span, options.cutoff
        self.scale = options.sharpness * (options.fields - 1) / (2.0 * options.span)
        """Inverse of the standard deviation."""
        self.register_buffer("centre", torch.linspace(-options.span, options.span, options.fields))  # [P]
        self.register_buffer("step", torch.arange(steps).view(-1, 1, 1))  # [K, 1, 1]
        self.centre: Tensor
        self.step: Tensor

    def compute_activity(self, x: Tensor) -> Tensor:
        """Return receptive field activities [T, B, O P] in (0, 1] for ``x`` [T, B, O]."""
        distance = (x.clamp(-self.span, self.span).unsqueeze(-1) - self.centre) * self.scale
        return torch.exp(-0.5 * distance**2).flatten(-2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        activity = self.compute_activity(x.detach())
        latency = torch.round((self.steps - 1) * (1.0 - activity))
        spikes = (latency.unsqueeze(1) == self.step) & (activity >= self.cutoff).unsqueeze(1)
        return spikes.to(x.dtype)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count five per field and control step: difference, scaling, square, and two from activity to time."""
        return torch.full(x.shape[:2], 5.0 * self.width, device=x.device)
