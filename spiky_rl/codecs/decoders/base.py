"""Base class of decoders, which turn spikes of the last layer into features for the action distribution or the value."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component, RegistryError
from spiky_rl.connections._cost import ConnectionCost, make_matrix_cost
from spiky_rl.connections._quantization import WeightQuantizer
from spiky_rl.connections.base import read_weight


class Decoder(Component, torch.nn.Module):
    """Spikes [T, K, B, N] -> features [T, B, F]."""

    state_width: int = 0
    """Width of the hidden state between control steps; 0 if there is none."""
    backend: str = "auto"
    """Kernel backend."""
    spikes_only: bool = False
    """Whether the decoder needs binary spikes."""
    binary: bool = False
    """Whether the last layer's output is 0 or 1."""
    bfloat16_gradient: bool = False
    """Whether the gradient of the input may be computed in bfloat16."""
    quantiser: WeightQuantizer | None = None
    """Rounds the readout's weights in training; None for float weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.readout = torch.nn.Linear(inputs, outputs)
        """Learned linear map N -> F."""

    def configure(self, backend: str, binary: bool, bfloat16_gradient: bool = False) -> None:
        """Set the attributes ``backend``, ``binary`` and ``bfloat16_gradient``.

        Raises:
            RegistryError: If the decoder needs spikes and the last layer sends graded values.
        """
        if self.spikes_only and not binary:
            name = type(self).__module__.rpartition(".")[2]
            raise RegistryError(f"decoder {name!r} needs spikes; the last layer's neurons send graded values")
        self.backend, self.binary, self.bfloat16_gradient = backend, binary, bfloat16_gradient

    @abstractmethod
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features [T, B, F] and the new state.

        Args:
            spikes: [T, K, B, N].
            state: Tensors [B, F] before the first step; None to start from zero and return no state.
            keep: [T, B]; 0 where an episode begins with this step.
        """

    def synapses(self) -> Tensor:
        """Return the readout's weights [F, N], rounded if they are quantised."""
        weights = self.unrounded_weights()
        if self.quantiser is None:
            return weights.t()
        # in the readout's memory layout: for one output, BLAS would add in another order than for the weights of a file
        return self.quantiser(weights).t().clone(memory_format=torch.contiguous_format)

    def unrounded_weights(self) -> Tensor:
        """Return the readout's float weights [N, F]."""
        return read_weight(self.readout).t()

    def select_events(self, spikes: Tensor) -> Tensor:
        """Return the events [T, K or 1, B, N] of ``spikes`` [T, K, B, N] that reach the readout's weights."""
        return spikes

    def operations(self, spikes: Tensor) -> Tensor:
        """Count effective operations [T, B] for ``spikes`` [T, K, B, N]: non-zero events times F."""
        return (self.select_events(spikes) != 0).sum((1, 3)) * self.readout.out_features

    def measure_cost(self, signal_index: int) -> ConnectionCost:
        """Return the cost of the readout's present weights, which read ``ForwardRecord.signals[signal_index]``."""
        return make_matrix_cost(self.synapses().t(), signal_index, self.select_events)
