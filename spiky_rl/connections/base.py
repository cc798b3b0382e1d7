"""Base classes of connections, which turn the signal of a layer into a current: of the next layer, or of the layer itself.

`Connection` has the weights between two layers, `IntraLayerConnection` those among the neurons of one layer, with delays of at least
one inner step. Both count effective operations: the synapses that non-zero inputs reach. The functions below draw sparse masks and
the signs of Dale's law.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import override

import torch
from torch import Tensor
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from spiky_rl.config.registry import Component, RegistryError
from spiky_rl.connections._cost import ConnectionCost, count_zeros, make_matrix_cost
from spiky_rl.connections._quantization import WeightQuantizer
from spiky_rl.kernels import dispatch

WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
"""Hooks of `torch.nn.utils` that compute a module's weight before it is called."""

Shape = tuple[int, ...]
"""Shape of a signal without T, K and B: (C,) for vectors, (C, H, W) for maps. In memory a map is flat, with W fastest."""


class Connection(Component, torch.nn.Module):
    """Signal [..., C] -> current [..., N].

    The constructor gets ``inputs``, the shape of the signal, and ``outputs``, the layer's entry in ``layers``: its number of
    neurons, or of channels of maps.
    """

    shape: Shape
    """Shape of the current."""
    quantiser: WeightQuantizer | None = None
    """Rounds the weights in training; None for float weights."""

    @property
    def width(self) -> int:
        """N: number of target neurons."""
        return math.prod(self.shape)

    @abstractmethod
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        """Compute the current [..., N].

        Args:
            x: Signal [..., C], flattened.
            binary: Whether x is 0 or 1.
            bfloat16: Whether the gradient of x may be computed in bfloat16.
        """

    def get_effective_weights(self, weight: Tensor) -> Tensor:
        """Return ``weight`` [inputs, N] rounded by the quantiser, or unchanged if there is none."""
        return weight if self.quantiser is None else self.quantiser(weight)

    @abstractmethod
    def operations(self, events: Tensor) -> Tensor:
        """Count effective operations [...] of ``events`` [..., C]: the synapses that non-zero inputs reach."""

    def measure_cost(self, signal_index: int, inputs: int) -> ConnectionCost:
        """Return the cost of the present weights.

        Here neurons may share weights, and `operations` alone knows how many operations they make.

        Args:
            signal_index: Index in `ForwardRecord.signals` of the signal that the connection reads.
            inputs: C.
        """
        weights = [p.detach() for p in self.parameters() if p.ndim > 1]
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        max_operations = float(self.operations(torch.ones(1, 1, 1, inputs, device=device)))
        return ConnectionCost(
            signal_index,
            weights=sum(p.numel() for p in weights),
            zeros=sum(map(count_zeros, weights)),
            dense=max_operations,
            count=self.operations,
            fan_out=max_operations,
        )


class IntraLayerConnection(Connection):
    """Connection among the neurons of a layer; a spike arrives 1 to ``delays`` inner steps later."""

    delays: int
    """D: number of past inner steps of spikes that the layer stores."""

    @abstractmethod
    def synapses(self) -> Tensor:
        """Return the weights [D N, N], rounded if quantised: one input-major block per delay from 1 on."""

    @override
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        return dispatch.linear(backend, x, self.synapses().t(), None, binary, bfloat16)

    @override
    def measure_cost(self, signal_index: int, inputs: int) -> ConnectionCost:
        delayed = self.synapses().detach().view(self.delays, self.width, self.width)
        # a synapse has one delay, or several in a network from a NIR file: then a spike reaches it once per delay
        most = max(1, int((delayed != 0).sum(0).max()))
        largest = delayed.abs().topk(most, dim=0).values  # [most, N, N]
        matrix = largest.transpose(0, 1).flatten(1)
        weight = getattr(self, "weight", None)  # a user's own connection may have none
        held = weight.numel() if isinstance(weight, Tensor) else None
        return make_matrix_cost(matrix, signal_index, delays=self.delays, held=held)

    def count_arrivals(self, steps: int, stateful: bool) -> Tensor:
        """Return how many synapses that are not 0 a spike of each of K = ``steps`` inner steps reaches, [K, N].

        In a stateless network it does not reach those at which it would arrive after the control step.
        """
        by_delay = (self.synapses().detach() != 0).view(self.delays, self.width, self.width).sum(2)  # [D, N]
        longest_delays = [self.delays if stateful else steps - 1 - k for k in range(steps)]
        return torch.stack([by_delay[:longest].sum(0) for longest in longest_delays])


def read_weight(module: torch.nn.Module) -> Tensor:
    """Return the weight of a ``module`` that is never called, after the hooks that compute it, such as those of pruning."""
    for hook in module._forward_pre_hooks.values():  # pylint: disable=protected-access
        if isinstance(hook, WEIGHT_HOOKS):
            hook(module, ())
    return module.weight  # type: ignore[return-value]


def make_dale_factors(size: int, inhibitory: float) -> Tensor:
    """Return factors [size, 1] of the weights of presynaptic neurons under Dale's law.

    The last neurons, a fraction ``inhibitory`` of all, are inhibitory: their factor is minus the ratio of excitatory to inhibitory
    neurons, so that excitation and inhibition cancel on average. The factor of the others is 1. If all are inhibitory, it is -1.
    """
    count = round(size * inhibitory)
    factors = torch.ones(size, 1)
    factors[size - count :] = -(size - count) / count if 0 < count < size else -1.0
    return factors


def count_values(inputs: Shape | int) -> int:
    """Return the number of values in a signal of the shape ``inputs``; a number is returned unchanged."""
    return inputs if isinstance(inputs, int) else math.prod(inputs)


def make_sparse_mask(shape: tuple[int, int], density: float, diagonal: bool = True) -> Tensor:
    """Draw a mask [C, N] of 0 and 1 with the same number of synapses, at least one, in every column (target neuron).

    Args:
        shape: (C, N).
        density: Fraction of ones.
        diagonal: Whether a neuron may connect to itself.
    """
    if density == 1.0:  # nothing is drawn
        mask = torch.ones(shape)
        return mask if diagonal else mask.fill_diagonal_(0.0)
    drawn = torch.rand(shape)
    if not diagonal:
        drawn.fill_diagonal_(torch.inf)
    possible = shape[0] if diagonal else shape[0] - 1
    fan_in = max(1, round(possible * density))
    rank_in_column = drawn.argsort(0).argsort(0)
    return (rank_in_column < fan_in).float()


def require_neurons(path: str, count: int) -> None:
    """Raise RegistryError that names the key ``path`` if a layer has fewer than two neurons to connect."""
    if count < 2:
        raise RegistryError(f"{path}: the layer has {count} neuron; a connection within it needs at least 2")


vector = require_flat = count_values
"""Old names, kept for one release."""
