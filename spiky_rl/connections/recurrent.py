"""Recurrent connection: a layer's spikes change its own current one or more inner steps later.

    I_k <- I_k + sum_d W_d s_(k-d),   d = 1 .. delays

Every synapse has one delay, drawn uniformly; with ``delays: 1`` all spikes arrive in the next inner step. Dense or sparse,
optionally with Dale's law and with self-connections. Initial weights are normal with the standard deviation
gain / sqrt(synapses per neuron); a gain near 1 sustains activity without runaway.

Source: Bellec et al. (2018), recurrent spiking networks with delays; the scale is that of Sompolinsky et al. (1988).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.connections.base import (
    IntraLayerConnection,
    Shape,
    count_values,
    make_dale_factors,
    make_sparse_mask,
    read_weight,
    require_neurons,
)


class Recurrent(IntraLayerConnection):
    """Spikes [..., D N] of the last D inner steps, latest first -> current [..., N]."""

    class Options(Settings):
        gain: float = option(0.5, "scale of the initial weights", low=0.0)
        density: float = option(1.0, "fraction of the possible synapses", low=1e-4, high=1.0)
        delays: int = option(1, "longest delay, in inner steps", low=1, high=10_000)
        self_connections: bool = option(False, "whether a neuron connects to itself")
        dale: bool = option(False, "Dale's law: all weights of a neuron have one sign")
        inhibitory: float = option(0.2, "with dale: fraction of inhibitory neurons", low=0.0, high=1.0)

    def __init__(
        self,
        options: Options,
        inputs: Shape | int,
        outputs: int,  # pylint: disable=unused-argument
    ) -> None:
        super().__init__()
        size = count_values(inputs)
        require_neurons("recurrent", size)
        self.shape, self.delays, self.dale = (size,), options.delays, options.dale
        mask = make_sparse_mask((size, size), options.density, diagonal=options.self_connections)
        fan_in = float(mask.sum(0).mean())
        gain = options.gain
        if options.dale:
            strength = make_dale_factors(size, options.inhibitory)
            mask = mask * strength
            gain /= math.sqrt(float(strength.square().mean()))
        self.weight = torch.nn.Parameter(torch.randn(size, size) * (mask != 0) * gain / math.sqrt(fan_in))
        if options.delays > 1:
            delay = torch.randint(options.delays, (size, size))
            mask = torch.cat([mask * (delay == d) for d in range(options.delays)])
        self.register_buffer("mask", mask)
        self.mask: Tensor
        self.full = mask.shape == (size, size) and bool((mask == 1.0).all())
        """Whether the mask is all ones and needs no multiplication."""

    def synapses(self) -> Tensor:
        return self.get_effective_weights(self.unrounded_weights())

    def unrounded_weights(self) -> Tensor:
        """Return the float weights [D N, N]."""
        weight = read_weight(self)
        if self.dale:
            weight = weight.abs()
        if self.delays > 1:
            weight = weight.repeat(self.delays, 1)
        return weight if self.full else weight * self.mask

    def operations(self, events: Tensor) -> Tensor:
        """Count effective operations of spikes [..., N]: a spike reaches each synapse of its neuron once, at any delay."""
        fan_out = (self.mask != 0).to(events.dtype).view(self.delays, self.width, self.width).sum((0, 2))
        return (events != 0).to(events.dtype) @ fan_out
