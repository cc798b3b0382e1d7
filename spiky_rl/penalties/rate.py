"""Rates within a band: a neuron's mean rate above ``upper`` or below ``lower`` costs the square of what is too much.

    cost = weight sum_layers mean_n [ max(0, r_n - upper)^2 + max(0, lower - r_n)^2 ]

r_n is in events per inner step, over the minibatch. Source: Zenke & Vogels (2021), with their lower and upper bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.registry import Option, RegistryError
from spiky_rl.penalties.base import Penalty


class Rate(Penalty):
    """See the module's text."""

    options = {
        "weight": Option(1.0, "of the term beside the loss", low=0.0),
        "upper": Option(0.1, "mean events per inner step above which a neuron costs", low=0.0),
        "lower": Option(0.0, "and below which it does", low=0.0),
    }

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        if options["lower"] > options["upper"]:
            raise RegistryError(
                f"{path}.lower: {options['lower']!r} is out of range; it must be at most upper, {options['upper']!r}"
            )

    def __init__(self, weight: float, upper: float, lower: float) -> None:
        self.weight, self.upper, self.lower = weight, upper, lower

    def cost(self, outputs: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:  # noqa: D102
        terms = []
        for output in outputs:
            rate = output.abs().mean((0, 1, 2))
            beyond = (rate - self.upper).clamp(min=0.0) + (self.lower - rate).clamp(min=0.0)
            terms.append(beyond.square().mean())
        return self.weight * torch.stack(terms).sum()
