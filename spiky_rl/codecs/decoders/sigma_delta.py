"""Sigma-delta: sums the changes that the last layer sends, so that only changes cause operations.

    a <- a + W s_k in every inner step;   y = a_K + b

If events are changes of a value, a is W times the receiver's copy of the value. A stateful network carries a through the
episode. In a stateless network a starts from 0 in every control step, and y - b is K times that of the rate decoder. For other
neurons than sigma-delta, this decoder is an integrator without leak.

Source: O'Connor & Welling (2016).
"""

from __future__ import annotations

from typing import override

from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value


class SigmaDeltaDecoder(Decoder):
    """Events [T, K, B, N] -> features [T, B, F]; state: the sums [B, F]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.state_width = outputs
        self.adder = Adder.from_options()

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        bias = self.readout.bias
        # the bias is added last, so that an episode's first control step has the same bits with and without a state
        changes = dispatch.linear(self.backend, spikes.sum(1), self.synapses(), None)
        if state is None:
            return changes + bias, ()
        if len(changes) == 1:  # a control step of a rollout or an exported policy: no loop over time
            total = (state[0] if keep is None else state[0] * keep[0].unsqueeze(-1)) + changes[0]
            return total.unsqueeze(0) + bias, (total,)
        sums, (total,) = dispatch.unroll(
            self.backend, self.adder, SPIKELESS, changes.unsqueeze(1), 1, state, (), keep
        )
        return sums.squeeze(1) + bias, (total,)


class Adder(Neuron):
    """The sum of its input; its output is the sum."""

    states = ("total",)
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        total = s.total + current
        return total, s.replace(total=total)
