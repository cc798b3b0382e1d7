"""Maass: neurons on a grid, connected with a probability that decreases with their distance.

    P(a -> b) = C exp(-(D(a, b) / reach)^2),   C = 0.3 (EE), 0.2 (EI), 0.4 (IE), 0.1 (II)

D is the Euclidean distance in grid points. The grid is a column of ``cross_section`` x ``cross_section`` points and as many layers as
needed. Inhibitory neurons are scattered at random. Weights are gamma-distributed; their standard deviation equals their mean, which is
30, 60, -19 and -19 for EE, EI, IE and II, here divided by 30. Synapses have no individual delays and no short-term plasticity.

Source: Maass, Natschlaeger & Markram (2002).
"""

from __future__ import annotations

from typing import override

import numpy as np

from spiky_rl.config.options import Settings, option
from spiky_rl.reservoirs.graphs.base import ReservoirGraph, Wiring

CONNECTIVITY = np.array([[0.3, 0.2], [0.4, 0.1]])
"""C by presynaptic (row) and postsynaptic kind: excitatory, inhibitory."""
MEAN = np.array([[30.0, 60.0], [-19.0, -19.0]]) / 30.0


class Maass(ReservoirGraph):
    """Neurons on a grid; closer neurons are more likely to be connected."""

    class Options(Settings):
        reach: float = option(2.0, "lambda: distance at which the probability has fallen to C/e", low=0.0)
        inhibitory: float = option(0.2, "fraction of inhibitory neurons", low=0.0, high=1.0)
        cross_section: int = option(3, "grid points along each side of the column's base", low=1)

    options: Options

    @override
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        side = self.options.cross_section
        index = np.arange(size)
        position = np.stack([index % side, index // side % side, index // side**2], 1).astype(float)
        inhibits = np.zeros(size, bool)
        inhibits[generator.permutation(size)[: round(size * self.options.inhibitory)]] = True
        kind = inhibits.astype(int)
        distance = np.linalg.norm(position[:, None] - position, axis=-1)
        near = np.exp(-((distance / max(self.options.reach, 1e-9)) ** 2))
        there = generator.random((size, size)) < CONNECTIVITY[kind[:, None], kind] * near
        np.fill_diagonal(there, False)
        weights = generator.gamma(1.0, 1.0, (size, size)) * MEAN[kind[:, None], kind] * there
        return Wiring(weights.astype(np.float32), inhibits, position)
