"""Base class of backends: a backend runs neurons over time, and as many other parts of a network as it supports.

A backend must define `run_neuron`. If it does not define `run_recurrent`, `stack`, `linear`, `convolution`, `pack` or `unpack`, the
torch reference runs that part instead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from spiky_rl.config.registry import Component
from spiky_rl.kernels.launch import NeuronRun

if TYPE_CHECKING:
    from spiky_rl.kernels.gpu_stack import GpuStack
    from spiky_rl.kernels.stack import LayerStack, StackStage

type Geometry = tuple[Sequence[int], int, int, int]
"""The (C, H, W) of the input maps, stride, padding, and P, the side of a pooled block."""


class Backend(Component):
    """A backend: computes on torch tensors, with gradients."""

    device: ClassVar[str | None] = None
    """Device type for which ``auto`` chooses this backend. It then supports only that device's float32 tensors, and no soft spikes.
    None if it supports all tensors and runs only when an agent names it."""
    fallback: Backend
    """The torch reference, which runs the parts that this backend does not define."""

    def get_unavailable_reason(self) -> str | None:
        """Return the reason why the backend cannot run here, with a remedy; None if it can."""
        return None

    @abstractmethod
    def run_neuron(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run neurons without feedback over time; return outputs [T, K, B, N] and the states after the last step."""

    def run_recurrent(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run neurons with feedback over time, as `run_neuron` does without."""
        return self.fallback.run_recurrent(run)

    def stack(
        self, stages: Sequence[StackStage], bfloat16: bool, recompute: bool
    ) -> LayerStack | GpuStack | None:
        """Return a function that runs all layers in one call; None if the layers must run one after the other.

        Args:
            stages: The layers, in order.
            bfloat16: Whether the gradients of signals may be computed in bfloat16.
            recompute: Whether to keep only the signals of the forward pass and run the layers again in the backward pass.
        """
        return self.fallback.stack(stages, bfloat16, recompute)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        """Return x times the transposed weight, plus bias, [..., N].

        Args:
            x: [..., C].
            weight: [N, C].
            bias: [N]; None for zero.
            binary: Whether x is 0 or 1, so that a backend may visit only the ones.
            bfloat16: Whether the gradient of x may be computed in bfloat16.
        """
        return self.fallback.linear(x, weight, bias, binary, bfloat16)

    def convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        geometry: Geometry,
        binary: bool = False,
        bfloat16: bool = False,
    ) -> Tensor:
        """Return the convolution of x, max-pooled in P x P blocks, [..., C' H' W']. Of equal maxima the first receives the gradient.

        Args:
            x: Maps [..., C H W], flat, columns fastest; the result has the same layout.
            weight: [C', C, kernel, kernel].
            bias: [C'].
            geometry: Maps, stride, padding and side of the pooled blocks.
            binary: Whether x is 0 or 1.
            bfloat16: Whether the gradients of x and weight may be computed in bfloat16.
        """
        return self.fallback.convolution(x, weight, bias, geometry, binary, bfloat16)

    def pack(self, x: Tensor) -> Tensor:
        """Return the non-zero elements of ``x`` [rows, C] as bits, in [rows, words] of 64 bits."""
        return self.fallback.pack(x)

    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        """Return ``bits`` [rows, words] as zeros and ones in float32, [rows, ``inputs``]: the inverse of `pack`."""
        return self.fallback.unpack(bits, inputs)
