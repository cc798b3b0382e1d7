"""Linear connection: current = W s + b; dense or sparse, optionally with Dale's law.

Initial weights are orthogonal with a gain, initial biases uniform around an offset. The gain spreads the currents over the
neurons and the offset lifts their mean towards the threshold, so that a new layer is neither silent nor saturated. A sparse
connection has the same number of synapses for every neuron, scaled by 1/sqrt(density) to keep the variance of the currents.
With Dale's law all weights of an input have one sign, and the stored weight gives their size: most inputs are excitatory, a
fraction is inhibitory with stronger synapses, so that the two cancel on average. Without ``bias`` the constant current is 0.

The weight is input-major, [inputs, outputs], unlike torch's, so that an event reads one contiguous row.

Source of the scheme: Rossbroich et al. (2022), fluctuation-driven initialisation; orthogonal as usual for PPO.
Dale's law in trained networks: Song, Yang & Wang (2016).
"""

from __future__ import annotations

import math
from typing import override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.connections._cost import ConnectionCost, make_matrix_cost
from spiky_rl.connections.base import Connection, Shape, count_values, make_dale_factors, make_sparse_mask
from spiky_rl.kernels import dispatch


class LinearConnection(Connection):
    """[..., inputs] -> [..., outputs]."""

    class Options(Settings):
        gain: float = option(2.0, "gain of the orthogonal initialisation", low=0.0)
        offset: float = option(0.25, "centre of the initial biases, in units of the threshold")
        spread: float = option(
            0.5, "half-width of the uniform distribution of initial biases around the offset", low=0.0
        )
        bias: bool = option(True, "whether neurons have a learned constant current")
        density: float = option(1.0, "fraction of the possible synapses", low=1e-4, high=1.0)
        dale: bool = option(False, "Dale's law: all weights of an input have one sign")
        inhibitory: float = option(0.2, "with dale: fraction of inhibitory inputs", low=0.0, high=1.0)

    def __init__(self, options: Options, inputs: Shape | int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.shape = count_values(inputs), outputs, (outputs,)
        # torch.nn.Linear advances the generator first: seeds give the same networks as in earlier versions
        weight = torch.nn.init.orthogonal_(
            torch.nn.Linear(self.in_features, outputs).weight.detach(), options.gain
        )
        self.weight = torch.nn.Parameter(weight.t().contiguous())
        drawn = torch.empty(outputs).uniform_(
            options.offset - options.spread, options.offset + options.spread
        )
        self.bias = torch.nn.Parameter(
            drawn if options.bias else torch.zeros(outputs), requires_grad=options.bias
        )
        self.dale = options.dale
        mask = None
        if self.dale or options.density < 1.0:
            mask = make_sparse_mask((self.in_features, outputs), options.density)
            if self.dale:
                mask *= make_dale_factors(self.in_features, options.inhibitory)
            with torch.no_grad():
                self.weight *= 1.0 / math.sqrt(mask.square().sum(0).mean() / self.in_features)
                self.weight *= mask != 0
        self.register_buffer("mask", mask)
        self.mask: Tensor | None
        """Factors of the stored weights: 0 without a synapse, else sign and strength. None if all are 1."""

    def synapses(self) -> Tensor:
        """Return the effective weights [inputs, outputs], rounded if quantised."""
        weights = self.unrounded_weights()
        # plain weights take one call less
        return weights if self.quantiser is None else self.get_effective_weights(weights)

    def unrounded_weights(self) -> Tensor:
        """Return the float weights [inputs, outputs]."""
        if self.mask is None:
            return self.weight
        return self.weight.abs() * self.mask if self.dale else self.weight * self.mask

    @override
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        return dispatch.linear(backend, x, self.synapses().t(), self.bias, binary, bfloat16)

    @override
    def operations(self, events: Tensor) -> Tensor:
        if self.mask is None:
            return (events != 0).sum(-1) * self.out_features
        return (events != 0).to(self.mask) @ (self.mask != 0).to(self.mask).sum(1)

    @override
    def measure_cost(self, signal_index: int, inputs: int) -> ConnectionCost:
        return make_matrix_cost(self.synapses(), signal_index)
