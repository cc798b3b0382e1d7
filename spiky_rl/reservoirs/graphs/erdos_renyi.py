"""Erdos-Renyi: every pair of different neurons is connected with the same probability.

The last neurons, a fraction of all, are inhibitory (Dale's law). Weights are normally distributed around 1, clipped below at 0.01, and
``strength`` times as large if inhibitory: with a fifth of inhibitory neurons, 4 balances excitation and inhibition.

Source: Erdos & Renyi (1959); the balance is that of Brunel (2000).
"""

from __future__ import annotations

from typing import override

import numpy as np

from spiky_rl.config.options import Settings, option
from spiky_rl.reservoirs.graphs.base import ReservoirGraph, Wiring


class ErdosRenyi(ReservoirGraph):
    """Random graph in which every pair of neurons is connected with the same probability."""

    class Options(Settings):
        density: float = option(0.1, "probability of a synapse", low=1e-4, high=1.0)
        inhibitory: float = option(0.2, "fraction of inhibitory neurons", low=0.0, high=1.0)
        strength: float = option(
            4.0, "strength of an inhibitory synapse, relative to an excitatory one", low=0.0
        )
        spread: float = option(0.3, "standard deviation of the weights, relative to their mean", low=0.0)

    options: Options

    @override
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        there = generator.random((size, size)) < self.options.density
        np.fill_diagonal(there, False)
        weights = np.maximum(generator.normal(1.0, self.options.spread, (size, size)), 0.01) * there
        inhibits = np.arange(size) >= size - round(size * self.options.inhibitory)
        weights[inhibits] *= -self.options.strength
        return Wiring(weights.astype(np.float32), inhibits)
