"""What every connection is: the signal of one layer into the current of the next, or a layer's own spikes into its current."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, override

import torch
from torch import Tensor

from spiky_rl.config.registry import Component, RegistryError
from spiky_rl.connections._quantised import WeightQuantizer
from spiky_rl.kernels import dispatch

Shape = tuple[int, ...]
"""Shape of a signal without T, K and B: (C,) for vectors, (C, H, W) for maps, flat in memory with W fastest."""


class Connection(Component, torch.nn.Module):
    """Built with ``inputs``, the shape of what comes in, and ``outputs``, the layer's entry: neurons, or channels of maps."""

    renamed = {
        "within": "is_intra_layer",
        "in_force": "get_effective_weights",
        "exact": "unrounded_weights",
        "plain": "is_plain",
    }

    is_intra_layer: ClassVar[bool] = False
    """Whether it links the neurons of one layer among themselves: then `IntraLayerConnection`."""
    shape: Shape
    """What comes out."""
    quantiser: WeightQuantizer | None = None
    """What rounds its weights while they are trained; None: nothing does."""

    @property
    def width(self) -> int:
        """N: neurons that it leads to."""
        return math.prod(self.shape)

    @abstractmethod
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        """Signal -> current [..., N], flat.

        Args:
            x: The signal [..., C], flat.
            backend: What computes it.
            binary: x is 0 or 1.
            bfloat16: The gradient of x may be computed in bfloat16.
        """

    def get_effective_weights(self, weight: Tensor) -> Tensor:
        """The weights [inputs, N] that are used for a stored ``weight``: the same, or rounded by the quantiser."""
        return weight if self.quantiser is None else self.quantiser(weight)

    @abstractmethod
    def operations(self, events: Tensor) -> Tensor:
        """Effective operations that ``events`` [..., C] cause: non-zero inputs times the synapses they reach, [...]."""


class IntraLayerConnection(Connection):
    """A connection among a layer's own neurons: a spike arrives 1 to ``delays`` inner steps after it was sent."""

    is_intra_layer = True
    delays: int
    """D: inner steps that a layer has to remember its spikes for."""

    @abstractmethod
    def synapses(self) -> Tensor:
        """The weights in force, [D N, N]: a block for every delay from 1 on, input-major."""

    @override
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        return dispatch.linear(backend, x, self.synapses().t(), None, binary, bfloat16)


def make_dale_factors(size: int, inhibitory: float) -> Tensor:
    """Factors of the synapses of each of ``size`` presynaptic neurons under Dale's law, [size, 1].

    1 for an excitatory neuron; the last ones inhibit, as many as the fraction ``inhibitory`` says, and as much stronger as it
    takes for the two to cancel on the mean.
    """
    count = round(size * inhibitory)
    factors = torch.ones(size, 1)
    factors[size - count :] = -(size - count) / count if 0 < count < size else -1.0
    return factors


def require_flat(inputs: Shape | int) -> int:
    """The number of channels of ``inputs``, of maps too: what does not look at places takes them as a vector."""
    return inputs if isinstance(inputs, int) else math.prod(inputs)


def make_sparse_mask(shape: tuple[int, int], density: float, diagonal: bool = True) -> Tensor:
    """A mask of 0 and 1 in which every column (neuron) has the same number of synapses, at least one.

    Args:
        shape: (C, N).
        density: Fraction of the synapses that there could be.
        diagonal: Whether a neuron may have one with itself.
    """
    drawn = torch.rand(shape)
    if not diagonal:
        drawn.fill_diagonal_(torch.inf)
    fan_in = max(1, round((shape[0] - (not diagonal)) * density))
    return (drawn.argsort(0).argsort(0) < fan_in).float()


def require_neurons(path: str, count: int) -> None:
    """Raise RegistryError that names ``path`` where ``count`` neurons are too few to be linked among themselves."""
    if count < 2:
        raise RegistryError(
            f"{path}: {count} neuron has no other to be connected to; the layer needs at least 2"
        )


vector = require_flat
"""The old name, for one release."""
