"""What every graph is: a directed, weighted wiring of N neurons, drawn once from a generator of its own."""

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
    """bool [N]: whose outgoing weights are negative or zero; all others' are positive or zero."""
    position: np.ndarray | None = None
    """float [N, 2 or 3], where the neurons lie, for graphs that have a space."""

    @property
    def density(self) -> float:
        """Synapses, by the N (N - 1) that there could be between different neurons."""
        size = len(self.weights)
        return float(np.count_nonzero(self.weights)) / max(size * (size - 1), 1)


class ReservoirGraph(Component):
    """A rule that wires N neurons."""

    def __init__(self, options: Settings | None = None) -> None:
        self.options = options

    def check(self, size: int) -> None:
        """Raise RegistryError where there is no wiring of ``size`` neurons; most rules wire any number."""

    @abstractmethod
    def wire(self, size: int, generator: np.random.Generator) -> Wiring:
        """The wiring of ``size`` neurons. The same state of the ``generator`` gives the same wiring."""


Graph = ReservoirGraph
"""The old name, for one release."""
