"""Dense linear connection: current = W s + b.

Weights are drawn orthogonal with a gain, biases constant: the gain spreads the currents over the population and the bias
lifts their mean towards the threshold, so that a fresh layer neither falls silent nor saturates.

The weight is input-major, [inputs, outputs], unlike torch's: an event then reads one contiguous row.

Source of the scheme: Rossbroich et al. (2022), fluctuation-driven initialisation; orthogonal as usual for PPO.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch
from spiky_rl.registry import Component, Option


class Linear(Component, torch.nn.Module):
    """[..., inputs] -> [..., outputs]."""

    options = {
        "gain": Option(2.0, "gain of the orthogonal initialisation", low=0.0),
        "offset": Option(0.25, "centre of the initial biases, in units of the threshold"),
        "spread": Option(0.5, "initial biases are uniform within the offset plus or minus this", low=0.0),
    }

    def __init__(self, gain: float, offset: float, spread: float, inputs: int, outputs: int) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = inputs, outputs
        # drawn from where torch.nn.Linear leaves the generator: a seed gives the networks that it always gave
        weight = torch.nn.init.orthogonal_(torch.nn.Linear(inputs, outputs).weight.detach(), gain)
        self.weight = torch.nn.Parameter(weight.t().contiguous())
        self.bias = torch.nn.Parameter(torch.empty(outputs).uniform_(offset - spread, offset + spread))

    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        """x [..., inputs] -> [..., outputs]; arguments as `spiky_rl.kernels.dispatch.linear`'s."""
        return dispatch.linear(backend, x, self.weight.t(), self.bias, binary, bfloat16)

    def operations(self, events: Tensor) -> Tensor:
        """Effective operations that ``events`` [..., inputs] cause: non-zero inputs times fan-out, [...]."""
        return (events != 0).sum(-1) * self.out_features
