"""Sigma-delta: sums the changes that the last layer sends, so that only changes cause operations.

    a <- a + W s_k in every inner step;   y = a_K + b

If events are changes of a value, a is W times the receiver's copy of the value. A stateful network carries a through the
episode. In a stateless network a starts from 0 in every control step, and y - b is K times that of the rate decoder. For other
neurons than sigma-delta, this decoder is an integrator without leak.

Source: O'Connor & Welling (2016).
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.kernels import dispatch


class SigmaDeltaDecoder(Decoder):
    """Events [T, K, B, N] -> features [T, B, F]; state: the sums [B, F]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.state_width = outputs

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = self.synapses(), self.readout.bias
        if state is None:
            # add the bias last, as below, so that an episode's first control step has the same bits with and without a state
            return dispatch.linear(self.backend, spikes.sum(1), weight, None) + bias, ()
        changes, total, sums = dispatch.linear(self.backend, spikes.sum(1), weight, None), state[0], []
        for t in range(changes.shape[0]):
            if keep is not None:
                total = total * keep[t].unsqueeze(-1)
            total = total + changes[t]
            sums.append(total)
        return torch.stack(sums) + bias, (total,)
