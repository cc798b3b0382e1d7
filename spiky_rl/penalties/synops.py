"""Synops: penalty on effective operations, as a share of the operations of a network in which all neurons always spike.

    cost = weight max(0, share - upper),   share = sum_l r_l N_l F_l / sum_l N_l F_l

Layer l has N_l neurons with the mean firing rate r_l in events per inner step; an event reaches F_l synapses (fan-out). So
neurons with many synapses cost more. Source: Sorbaro et al. (2020), a synaptic-operation loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.penalties.base import Penalty


class SynopsPenalty(Penalty):
    """Penalty on the share of effective operations above a bound."""

    class Options(Settings):
        weight: float = option(1.0, "weight of the term in the loss", low=0.0)
        upper: float = option(0.0, "share of operations without a penalty", low=0.0, high=1.0)

    options: Options
    raises_rates = False

    @override
    def compute(self, rates: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:
        layers = list(zip(rates, fan_out, strict=True))
        operations = torch.stack([rate.sum() * fan for rate, fan in layers]).sum()
        max_operations = sum(len(rate) * fan for rate, fan in layers)
        return self.options.weight * (operations / max_operations - self.options.upper).clamp(min=0.0)

    @override
    def compute_factors(self, widths: Sequence[int], fan_out: Sequence[float]) -> list[float]:
        max_operations = sum(width * fan for width, fan in zip(widths, fan_out, strict=True))
        return [self.options.weight * fan / max_operations for fan in fan_out]

    @override
    def compute_gradient(
        self, rates: Tensor, factors: Tensor, widths: Sequence[int], fan_out: Sequence[float]
    ) -> Tensor:
        # rates.dot(factors) is weight times share; the gradient is 0 while the share is below its bound
        return factors * (rates.dot(factors) >= self.options.weight * self.options.upper)
