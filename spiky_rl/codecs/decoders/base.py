"""What every decoder is: spikes of the last layer into the numbers that the host's distribution reads."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component, RegistryError
from spiky_rl.connections._quantised import WeightQuantizer
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.stack import StackStage
from spiky_rl.neurons.base import Neuron


class Decoder(Component, torch.nn.Module):
    """Turns spikes [T, K, B, N] into features [T, B, F]."""

    renamed = {
        "read": "decode_potentials",
        "connect": "configure",
        "exact": "unrounded_weights",
        "parameters_of_potential": "get_potential_parameters",
    }

    state_width: int = 0
    """Width of the state that is carried between control steps; 0: none."""

    potential: Neuron | None = None
    """What runs over the readout's output, if anything does: then `read` turns its output into features."""
    ops: TorchOps | None = None
    """The vocabulary that the potential runs on."""
    last_step: bool = False
    """Whether features are the potential after the last inner step, plus the readout's bias."""
    backend: str = "auto"
    """What runs it."""
    spikes_only: bool = False
    """Whether it can make nothing of graded values."""
    binary: bool = False
    """Whether what it reads is 0 or 1."""
    bfloat16_gradient: bool = False
    """Whether the gradient of what it reads may be computed in bfloat16."""

    quantiser: WeightQuantizer | None = None
    """What rounds the readout's weights while they are trained; None: nothing does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.readout = torch.nn.Linear(inputs, outputs)
        """The learned weights N -> F."""

    def configure(self, backend: str, binary: bool, bfloat16_gradient: bool = False) -> None:
        """Take over what runs it and what it reads.

        Args:
            backend: What runs it.
            binary: What it reads is 0 or 1. Raises `RegistryError` where that is not so and would have to be.
            bfloat16_gradient: The gradient of what it reads may be computed in bfloat16.
        """
        if self.spikes_only and not binary:
            name = type(self).__module__.rpartition(".")[2]
            raise RegistryError(f"decoder {name!r} reads spikes; the last layer's neurons send graded values")
        self.backend, self.binary, self.bfloat16_gradient = backend, binary, bfloat16_gradient

    @abstractmethod
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features [T, B, F] and the new state.

        Args:
            spikes: [T, K, B, N].
            state: Before the first step, [B, F] each; None: from rest, and no state comes out.
            keep: [T, B]; 0 where an episode begins with this step.
        """

    def synapses(self) -> Tensor:
        """The readout's weights in force, [F, N]."""
        return (
            self.unrounded_weights() if self.quantiser is None else self.quantiser(self.unrounded_weights())
        ).t()

    def unrounded_weights(self) -> Tensor:
        """The readout's weights behind their rounding, [N, F]."""
        return self.readout.weight.t()

    def get_potential_parameters(self) -> tuple[Tensor | float, ...]:
        """Parameters of the output potential's step; empty where there is no potential."""
        return ()

    def stage(self) -> StackStage:
        """The readout and its potential as a backend takes them that runs all layers in one call."""
        assert self.potential is not None
        return StackStage(
            *(self.readout, self.potential, self.get_potential_parameters, self.ops, self.binary),
            biased=False,
            output_major=True,
        )

    def decode_potentials(self, potentials: Tensor) -> Tensor:
        """The ``potentials`` [T, K, B, F] of a decoder that has them -> features [T, B, F]."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no decode_potentials; a decoder with a potential must"
        )

    def operations(self, spikes: Tensor) -> Tensor:
        """Effective operations for ``spikes`` [T, K, B, N]: non-zero inputs times F, [T, B]."""
        return (spikes != 0).sum((1, 3)) * self.readout.out_features
