"""Sparse weights in memory: where every input has a list of its synapses, each a weight and the number of its neuron.

That is what compressed sparse rows are, and what an event reads: where its list begins and ends, then the list. Two thirds of
the weights have to be 0 for it: then it takes less memory than a matrix does, with weights of a byte and two of them for a
neuron's number, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

LISTED = 2 / 3
"""Share of zeros from which on weights are lists."""
START = 4
"""Bytes that say where a list begins."""


@dataclass(frozen=True)
class Stored:
    """A matrix of weights in memory, as lists if it is sparse enough, as it is if not."""

    inputs: int
    neurons: int
    zeros: int

    @property
    def index(self) -> int:
        """Bytes of a neuron's number; 0: the weights are no lists."""
        if self.zeros < max(1, LISTED * self.inputs * self.neurons):
            return 0
        return 1 if self.neurons <= 256 else 2

    @property
    def values(self) -> int:
        """Weights in memory."""
        return self.inputs * self.neurons - self.zeros * bool(self.index)

    @property
    def index_bytes(self) -> int:
        """What lists take besides."""
        return (self.values * self.index + (self.inputs + 1) * START) * bool(self.index)

    def reads[N: (float, Tensor)](self, operations: N, events: N) -> N:
        """Bytes read besides weights by so many ``operations`` that so many ``events`` cause."""
        return (operations * self.index + events * 2 * START) * bool(self.index)
