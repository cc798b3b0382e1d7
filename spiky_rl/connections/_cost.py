"""Cost of a connection: its weights in memory, and the operations that events cause in it.

Sparse weights in memory are compressed sparse rows: every input has a list of synapses, each a weight and the index of its neuron. An
event reads the start and end of its list, then the list. Weights are stored as lists if lists take less memory than a matrix even
with weights of one byte: from about two thirds zeros on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

START_BYTES = 4
"""Size of the index at which a list starts."""


@dataclass(frozen=True)
class WeightStorage:
    """A weight matrix in memory: as lists if it is sparse enough, else as a matrix."""

    inputs: int
    neurons: int
    zeros: int
    delays: int = 1
    """Number of possible spike delays in inner steps; an input has one list per delay."""
    held: int | None = None
    """Number of weights that the network's module holds; None if it holds the matrix. The module of a NIR file's delayed feedback
    holds a matrix per delay, most of them zeros."""

    @property
    def bytes_per_index(self) -> int:
        """Bytes of a neuron's index in a list; 0 if the weights are stored as a matrix."""
        width = 1 if self.neurons <= 256 else 2
        # with weights of one byte
        matrix_bytes = self.inputs * self.neurons
        list_bytes = (matrix_bytes - self.zeros) * (1 + width) + self._starts_bytes
        return width if list_bytes < matrix_bytes else 0

    @property
    def has_lists(self) -> bool:
        """Whether the weights are stored as lists."""
        return self.bytes_per_index > 0

    @property
    def values(self) -> int:
        """Number of weights in memory."""
        return self.inputs * self.neurons - (self.zeros if self.has_lists else 0)

    @property
    def omitted_values(self) -> int:
        """Number of weights that the module holds and memory does not."""
        return (self.inputs * self.neurons if self.held is None else self.held) - self.values

    @property
    def index_bytes(self) -> int:
        """Bytes of the lists, apart from the weights; 0 if the weights are stored as a matrix."""
        return self.values * self.bytes_per_index + self._starts_bytes if self.has_lists else 0

    def count_read_bytes[N: (float, Tensor)](self, operations: N, events: N) -> N:
        """Return the bytes read, apart from weights, for a number of ``events`` and of the ``operations`` that they cause.

        An event reads start and end of its lists, an operation the index of a neuron.
        """
        start_bytes = 2 * START_BYTES * self.delays
        return (operations * self.bytes_per_index + events * start_bytes) * self.has_lists

    @property
    def _starts_bytes(self) -> int:
        return (self.inputs * self.delays + 1) * START_BYTES


@dataclass(frozen=True)
class ConnectionCost:
    """One connection: the signal that it reads, and its operations."""

    signal_index: int | None
    """Index in `ForwardRecord.signals`; None if the record does not hold the signal. The operations of this connection are then the last
    entry of `ForwardRecord.operations`."""
    weights: int
    zeros: int
    """Number of weights that are 0."""
    dense: float
    """Dense operations of a call."""
    count: Callable[[Tensor], Tensor] = lambda events: events
    """Maps events [T, K or 1, B, C] to effective operations [T, K or 1, B]."""
    read: Callable[[Tensor], Tensor] = lambda signal: signal
    """Maps the signal to the events that reach the weights, such as the last inner step."""
    fan_out: float | None = None
    """Operations of a call if every input is non-zero; None if they equal the number of non-zero weights."""
    matrix: WeightStorage | None = None
    """Storage of the weight matrix; None if the weights are not a matrix, as in a convolution."""

    @property
    def storage(self) -> WeightStorage:
        """Storage of the weights."""
        return self.matrix or WeightStorage(1, self.weights, 0)

    @property
    def max_operations(self) -> float:
        """Operations of a call if every input is non-zero."""
        return float(self.weights - self.zeros) if self.fan_out is None else self.fan_out


def make_matrix_cost(
    weight: Tensor,
    signal_index: int,
    read: Callable[[Tensor], Tensor] = lambda signal: signal,
    delays: int = 1,
    held: int | None = None,
) -> ConnectionCost:
    """Return the cost of the effective weights [C, N]; each weight has one of ``delays`` delays. ``held`` is as in `WeightStorage`."""
    fan_out = (weight.detach() != 0).sum(1).float()
    matrix = WeightStorage(weight.shape[0], weight.shape[1], count_zeros(weight), delays, held)
    return ConnectionCost(
        signal_index,
        weights=weight.numel(),
        zeros=matrix.zeros,
        dense=weight.numel(),
        count=lambda events: (events != 0).to(fan_out) @ fan_out,
        read=read,
        matrix=matrix,
    )


def count_zeros(weight: Tensor) -> int:
    """Return the number of elements of ``weight`` that are 0."""
    return int((weight == 0).sum())
