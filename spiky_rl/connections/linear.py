"""Dense linear connection: current = W s + b.

Weights are drawn orthogonal with a gain, biases constant: the gain spreads the currents over the population and the bias
lifts their mean towards the threshold, so that a fresh layer neither falls silent nor saturates.

Source of the scheme: Rossbroich et al. (2022), fluctuation-driven initialisation; orthogonal as usual for PPO.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiky_rl.registry import Component, Option


class Linear(Component, torch.nn.Linear):
    """[..., inputs] -> [..., outputs]."""

    options = {
        "gain": Option(2.0, "gain of the orthogonal initialisation", low=0.0),
        "offset": Option(0.25, "centre of the initial biases, in units of the threshold"),
        "spread": Option(0.5, "initial biases are uniform within the offset plus or minus this", low=0.0),
    }

    def __init__(self, gain: float, offset: float, spread: float, inputs: int, outputs: int) -> None:
        torch.nn.Linear.__init__(self, inputs, outputs)
        torch.nn.init.orthogonal_(self.weight, gain)
        torch.nn.init.uniform_(self.bias, offset - spread, offset + spread)

    def operations(self, events: Tensor) -> Tensor:
        """Effective operations that ``events`` [..., inputs] cause: non-zero inputs times fan-out, [...]."""
        return (events != 0).sum(-1) * self.out_features
