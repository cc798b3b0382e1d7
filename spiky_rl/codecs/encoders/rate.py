"""Rate: a random spike train for each observation and sign, with a rate proportional to the observation.

    p = clip(max_rate min(max(+-x, 0) / span, 1), 0, 1) in every inner step;   x is near span (n_ON - n_OFF) / (K max_rate)

Two channels per observation: the positive part ON and the negative part OFF. ``max_rate`` is a probability per inner step: r Hz
are r dt / 1000 with dt in ms, and 1.0 is 1000 Hz at 1 ms, the highest rate with one spike per step. Observations are clipped to
plus or minus ``span``: agents with this encoder set ``actor.obs_normalization: true``.

The estimate of x from K inner steps has the standard deviation span sqrt(p (1 - p) / K) / max_rate. The noise is the same for
all environments and is drawn after every PPO update from a generator of its own, so within an iteration the signal of an
observation is repeatable, as PPO's ratio requires. No gradient reaches x, and nothing before x is learned.

Source: Adrian (1926), the rate code; as Bernoulli trials in Diehl & Cook (2015).
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder, resample_noise, uniform_noise
from spiky_rl.config.options import Settings, option


class RateEncoder(Encoder):
    """[T, B, O] -> spikes [T, K, B, 2 O]: all ON channels, then all OFF channels."""

    binary = True
    topographic = True

    class Options(Settings):
        max_rate: float = option(
            1.0,
            "highest probability of a spike per inner step, for an observation at the span",
            low=1e-3,
            high=1.0,
        )
        span: float = option(3.0, "bound to which (normalised) observations are clipped", low=1e-3)
        seed: int = option(0, "seed of the noise", low=0)

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width = 2 * inputs
        self.steps, self.max_rate, self.span, self.seed = steps, options.max_rate, options.span, options.seed
        self.register_buffer("noise", uniform_noise(options.seed, steps, self.width))
        self.noise: Tensor

    @override
    def forward(self, x: Tensor) -> Tensor:
        scaled = x * (self.max_rate / self.span)
        probability = torch.cat([scaled, -scaled], dim=-1).clamp(max=self.max_rate)
        # strictly less, so that there is no spike where the probability is 0
        return (self.noise[:, None] < probability.unsqueeze(1)).to(x.dtype)

    @override
    def resample_noise(self, updates: int) -> None:
        resample_noise(self.noise, self.seed + updates)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count one per observation: the scaling."""
        return torch.full(x.shape[:2], 1.0 * x.shape[-1], device=x.device)
