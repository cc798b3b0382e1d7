"""Sparse weights in memory: where every input has a list of its synapses, each a weight and the number of its neuron.

That is what compressed sparse rows are, and what an event reads: where its list begins and ends, then the list. Weights are
lists where those take less memory than a matrix does even with weights of a byte: from about two thirds zeros on.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

START = 4
"""Bytes that say where a list begins."""


@dataclass(frozen=True)
class WeightStorage:
    """A matrix of weights in memory, as lists if it is sparse enough, as it is if not."""

    inputs: int
    neurons: int
    zeros: int
    delays: int = 1
    """Inner steps that a spike may take to arrive: an input has a list for each."""

    @property
    def index(self) -> int:
        """Bytes of a neuron's number; 0: the weights are no lists."""
        size, width = self.inputs * self.neurons, 1 if self.neurons <= 256 else 2
        return width if (size - self.zeros) * (1 + width) + self._starts < size else 0

    @property
    def values(self) -> int:
        """Weights in memory."""
        return self.inputs * self.neurons - self.zeros * bool(self.index)

    @property
    def index_bytes(self) -> int:
        """What lists take besides."""
        return (self.values * self.index + self._starts) * bool(self.index)

    def count_read_bytes[N: (float, Tensor)](self, operations: N, events: N) -> N:
        """Bytes read besides weights by so many ``operations`` that so many ``events`` cause."""
        return (operations * self.index + events * 2 * START * self.delays) * bool(self.index)

    @property
    def _starts(self) -> int:
        return (self.inputs * self.delays + 1) * START
