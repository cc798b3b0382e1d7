"""Membrane: the potential of leaky readout neurons that never spike.

    V <- a V + (1 - a) W s_k,   a = exp(-dt/tau);   y = b + V after the last step, its mean, or its maximum over the step

The potential is graded, so an action is not quantised to K + 1 levels, and it is carried between control steps in a
stateful network. Source: Chen et al. (2024), ILC-SAN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.registry import Option


class Membrane(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]; state: the potentials [B, F]."""

    options = {
        "read": Option("last", "what is read of the potential", choices=("last", "mean", "max")),
        "tau": Option(2.0, "time constant of the readout", low=1e-3, unit="ms"),
        "dt": Option(1.0, "inner time step", low=1e-6, unit="ms"),
    }

    def __init__(self, read: str, tau: float, dt: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.readout = torch.nn.Linear(inputs, outputs)
        self.read, self.decay, self.state_width = read, math.exp(-dt / tau), outputs

    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...], keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: D102
        drive = (1.0 - self.decay) * torch.nn.functional.linear(spikes, self.readout.weight)  # [T, K, B, F]
        (v,), features = state, []
        for t in range(spikes.shape[0]):
            v = v if keep is None else v * keep[t].unsqueeze(-1)
            potentials = []
            for k in range(spikes.shape[1]):
                v = self.decay * v + drive[t, k]
                potentials.append(v)
            features.append(v if self.read == "last" else _reduce(potentials, self.read))
        return torch.stack(features) + self.readout.bias, (v,)


def _reduce(potentials: list[Tensor], read: str) -> Tensor:
    stacked = torch.stack(potentials)
    return stacked.mean(0) if read == "mean" else stacked.amax(0)
