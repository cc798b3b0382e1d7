"""Rate: penalty on the squared distance of firing rates from a band.

    cost = weight sum_layers mean_n [ max(0, r_n - upper)^2 + max(0, lower - r_n)^2 ]

r_n is the mean firing rate of neuron n over the minibatch, in events per inner step. Source: Zenke & Vogels (2021), with their
lower and upper bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, override

import torch
from pydantic import model_validator
from torch import Tensor

from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.penalties.base import Penalty


class RatePenalty(Penalty):
    """Penalty on mean firing rates outside a band."""

    class Options(Settings):
        weight: float = option(1.0, "weight of the term in the loss", low=0.0)
        upper: float = option(0.1, "upper end of the band, in events per inner step", low=0.0)
        lower: float = option(0.0, "lower end of the band, in events per inner step", low=0.0)

        @model_validator(mode="after")
        def _check_band(self) -> Self:
            if self.lower > self.upper:
                raise RegistryError(
                    f"lower: {self.lower!r} is out of range; it must be at most upper, {self.upper!r}"
                )
            return self

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.raises_rates = options.lower > 0.0

    @override
    def compute(self, rates: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:
        terms = []
        for rate in rates:
            above = (rate - self.options.upper).clamp(min=0.0)
            below = (self.options.lower - rate).clamp(min=0.0)
            terms.append((above + below).square().mean())  # one of the two is 0
        return self.options.weight * torch.stack(terms).sum()

    @override
    def compute_factors(self, widths: Sequence[int], fan_out: Sequence[float]) -> list[float]:
        return [2.0 * self.options.weight / width for width in widths]

    @override
    def compute_gradient(
        self, rates: Tensor, factors: Tensor, widths: Sequence[int], fan_out: Sequence[float]
    ) -> Tensor:
        return (rates - rates.clamp(self.options.lower, self.options.upper)) * factors
