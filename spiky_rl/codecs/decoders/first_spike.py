"""First spike: a learned linear map of the earliness of each neuron's first spike; later spikes are ignored.

    y = W l + b,   l = (K - t) / K for the first spike in step t of 0 .. K - 1, 0 for none

l is 1 for a spike in the first inner step and 1 / K for one in the last, so it has K + 1 levels. It is computed as one minus
the mean over the steps of prod(1 - s) up to each step, which is 1 until the first spike. So its gradient reaches the first
spike and all earlier steps, in which a spike would have changed l, but no later step. The decoder needs binary spikes.

Source: Bohte, Kok & La Poutre (2002); Thorpe, Fize & Marlot (1996) for the code.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.kernels import dispatch


class FirstSpike(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]."""

    spikes_only = True

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        is_silent, silent_steps = torch.ones_like(spikes[:, 0]), []
        for spike in spikes.unbind(1):
            is_silent = is_silent * (1.0 - spike)
            silent_steps.append(is_silent)
        earliness = 1.0 - torch.stack(silent_steps, dim=1).mean(1)
        return dispatch.linear(self.backend, earliness, self.synapses(), self.readout.bias), ()

    @override
    def select_events(self, spikes: Tensor) -> Tensor:
        # the earliness l of each neuron's first spike, which is all that the weights receive
        return spikes.cummax(1).values.mean(1, keepdim=True)
