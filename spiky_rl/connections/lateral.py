"""Lateral connection: neighbours in a layer inhibit each other, so that few of them fire together.

    I_k,i <- I_k,i - sum_j w_ji s_(k-1),j   over the neurons j within ``radius`` places of i, on a ring, without i itself

Weights start at strength / (number of neighbours) and stay inhibitory while they are learned. With ``learned: false`` they are
fixed: a soft competition that makes activity sparser. With a negative strength neighbours excite each other.

Source: lateral inhibition as in Diehl & Cook (2015); learned intra-layer connections as in Chen et al. (2024), ILC-SAN.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.connections.base import IntraLayerConnection, Shape, count_values, read_weight, require_neurons


class Lateral(IntraLayerConnection):
    """Spikes [..., N] of the previous inner step -> current [..., N]."""

    class Options(Settings):
        strength: float = option(
            0.5, "initial inhibition of a neuron if all of its neighbours fire; 0 stays 0"
        )
        radius: int = option(0, "number of neighbours on each side; 0: the whole layer", low=0)
        learned: bool = option(True, "whether the weights are learned")

    delays = 1

    def __init__(
        self,
        options: Options,
        inputs: Shape | int,
        outputs: int,  # pylint: disable=unused-argument
    ) -> None:
        super().__init__()
        size = count_values(inputs)
        require_neurons("lateral", size)
        self.shape = (size,)
        place = torch.arange(size)
        distance = (place[:, None] - place).abs()
        distance = torch.minimum(distance, size - distance)
        mask = ((distance > 0) & (distance <= (options.radius or size))).to(torch.get_default_dtype())
        self.sign = -1.0 if options.strength >= 0 else 1.0
        weight = mask * abs(options.strength) / mask.sum(0)
        self.weight = torch.nn.Parameter(weight, requires_grad=options.learned)
        self.register_buffer("mask", mask)
        self.mask: Tensor

    def synapses(self) -> Tensor:
        return self.get_effective_weights(self.unrounded_weights())

    def unrounded_weights(self) -> Tensor:
        """Return the float weights [N, N]."""
        return self.sign * read_weight(self).abs() * self.mask

    @override
    def operations(self, events: Tensor) -> Tensor:
        return (events != 0).to(self.mask) @ self.mask.sum(1)
