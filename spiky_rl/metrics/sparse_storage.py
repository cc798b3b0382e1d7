"""Sparse weights in memory: every input has a list of synapses, each a weight and the index of its neuron.

These are compressed sparse rows. An event reads the start and end of its list, then the list. Weights are stored as lists if lists
take less memory than a matrix even with weights of one byte: from about two thirds zeros on.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

START = 4
"""Bytes of the start index of a list."""


@dataclass(frozen=True)
class WeightStorage:
    """A weight matrix in memory: as lists if it is sparse enough, else as a matrix."""

    inputs: int
    neurons: int
    zeros: int
    delays: int = 1
    """Number of possible spike delays in inner steps; an input has one list per delay."""

    @property
    def index(self) -> int:
        """Bytes of a neuron's index; 0 if the weights are stored as a matrix."""
        size = self.inputs * self.neurons
        width = 1 if self.neurons <= 256 else 2
        return width if (size - self.zeros) * (1 + width) + self._starts < size else 0

    @property
    def values(self) -> int:
        """Number of weights in memory."""
        return self.inputs * self.neurons - self.zeros * bool(self.index)

    @property
    def index_bytes(self) -> int:
        """Bytes of the lists, apart from the weights."""
        return (self.values * self.index + self._starts) * bool(self.index)

    def count_read_bytes[N: (float, Tensor)](self, operations: N, events: N) -> N:
        """Return the bytes read, apart from weights, for a number of ``events`` and of the ``operations`` that they cause."""
        return (operations * self.index + events * 2 * START * self.delays) * bool(self.index)

    @property
    def _starts(self) -> int:
        return (self.inputs * self.delays + 1) * START
