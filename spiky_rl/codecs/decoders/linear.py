"""Linear: a learned linear map of the spikes in the last inner step.

    y = W s_K + b

Earlier inner steps affect y only through the neurons' membranes. A spike is one bit, so features are sums of subsets of the
weights; with graded neurons this is the plain readout of an ANN.
Source: van den Berghe et al. (2025), with one inner step per control step.
"""

from __future__ import annotations

from typing import override

from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.kernels import dispatch


class LinearDecoder(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]."""

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = self.synapses(), self.readout.bias
        last = spikes[:, -1]
        return dispatch.linear(self.backend, last, weight, bias, self.binary, self.bfloat16_gradient), ()

    @override
    def select_events(self, spikes: Tensor) -> Tensor:
        return spikes[:, -1:]
