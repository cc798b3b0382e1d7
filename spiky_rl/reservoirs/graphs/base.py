"""Base class of graphs: a directed, weighted wiring of N neurons, drawn once from its own generator."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from spiky_rl.config.options import Settings
from spiky_rl.config.registry import Component


@dataclass(frozen=True)
class Wiring:
    """A drawn graph. Dale's law holds: all synapses out of a neuron have one sign."""

    weights: np.ndarray
    """float32 [N, N], from row to column; 0 where there is no synapse. Excitatory weights are about 1; a reservoir scales them."""
    inhibitory: np.ndarray
    """bool [N]: the outgoing weights of these neurons are at most 0, of all others at least 0."""
    position: np.ndarray | None = None
    """float [N, 2 or 3]: positions of the neurons, for spatial graphs."""

    @property
    def density(self) -> float:
        """Number of synapses divided by N (N - 1)."""
        size = len(self.weights)
        return float(np.count_nonzero(self.weights)) / max(size * (size - 1), 1)


class ReservoirGraph(Component):
    """A rule that wires N neurons."""

    def __init__(self, options: Settings | None = None) -> None:
        self.options = options

    def check(self, size: int) -> None:
        """Raise RegistryError if this graph cannot wire ``size`` neurons; most graphs wire any number."""

    @abstractmethod
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        """Return a wiring of ``size`` neurons; it is the same for the same state of ``generator``."""


Graph = ReservoirGraph
"""The old name, for one release."""
