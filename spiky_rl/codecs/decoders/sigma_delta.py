"""Sigma-delta: sums the changes that the last layer sends, so that a policy pays for nothing but changes.

    a <- a + W s_k in every inner step;   y = a_K + b

For graded events that are changes of a value, a is W times what has been sent of the value: the sum is the readout's sigma. In a
stateful network it is carried through the episode. In a stateless one it starts from 0 in every control step, and y - b
is K times what the rate decoder reads. Of neurons that are not sigma-delta it is an integrator without leak.

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
            # the bias last, as below: the first control step of an episode has the same bits with a state as without
            return dispatch.linear(self.backend, spikes.sum(1), weight, None) + bias, ()
        changes, total, sums = dispatch.linear(self.backend, spikes.sum(1), weight, None), state[0], []
        for t in range(changes.shape[0]):
            if keep is not None:
                total = total * keep[t].unsqueeze(-1)
            total = total + changes[t]
            sums.append(total)
        return torch.stack(sums) + bias, (total,)
