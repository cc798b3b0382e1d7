"""Rate: a learned linear map of each neuron's firing rate over the control step.

    y = W mean_k(s_k) + b

With K inner steps a rate has K + 1 levels. Source: Tang et al. (2020), without their output populations.
"""

from __future__ import annotations

from typing import override

from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.kernels import dispatch


class RateDecoder(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]."""

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        has_one_step = spikes.shape[1] == 1  # the rates are then the spikes
        rates = spikes.squeeze(1) if has_one_step else spikes.mean(1)
        binary = self.binary and has_one_step
        return dispatch.linear(self.backend, rates, self.synapses(), self.readout.bias, binary), ()
