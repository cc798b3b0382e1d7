"""What every backend is: an object that runs neurons over time, and as much of the rest of a network as it can.

It has to define `unroll`. What it does not define of `recurrent`, `stack`, `linear`, `convolution` and `pack`, the torch reference
does in its place.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from spiky_rl.config.registry import Component
from spiky_rl.kernels.launch import NeuronRun

if TYPE_CHECKING:
    from spiky_rl.kernels.stack import LayerStack, StackStage

type Geometry = tuple[Sequence[int], int, int, int]
"""The (C, H, W) of maps, the places that a kernel moves at once, the zeros around the maps, and P, the side of a pooled block."""


class Backend(Component):
    """Computes on torch's tensors and gives gradients for what needs one."""

    renamed = {"available": "get_unavailable_reason", "unroll": "run_neuron", "recurrent": "run_recurrent"}

    device: ClassVar[str | None] = None
    """Kind of device on which ``auto`` means it: it then takes that device's float32 tensors, and no smooth spikes. None: it takes
    all tensors, where an agent names it."""
    is_fallback: Backend
    """The torch reference, which does what this one lacks."""

    def get_unavailable_reason(self) -> str | None:
        """The reason why it cannot run here, with the remedy; None: it runs."""
        return None

    @abstractmethod
    def run_neuron(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The neurons of a ``run`` over time, without a feedback: outputs [T, K, B, N] and the states after the last step."""

    def run_recurrent(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `unroll`, of a ``run`` with a feedback."""
        return self.is_fallback.run_recurrent(run)

    def stack(self, stages: Sequence[StackStage], bfloat16: bool, recompute: bool) -> LayerStack | None:
        """Linear maps and neurons in one call; None: they run one after the other.

        Args:
            stages: The layers, in order.
            bfloat16: The gradients of their signals may be computed in bfloat16.
            recompute: Keep of the forward pass only the signals, and run the layers again in the backward pass.
        """
        return self.is_fallback.stack(stages, bfloat16, recompute)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        """x times weight plus bias, [..., N].

        Args:
            x: [..., C].
            weight: [N, C].
            bias: [N]; None: 0.
            binary: x is 0 or 1, and a backend may follow the ones alone.
            bfloat16: The gradient of x may be computed in bfloat16.
        """
        return self.is_fallback.linear(x, weight, bias, binary, bfloat16)

    def convolution(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        geometry: Geometry,
        binary: bool = False,
        bfloat16: bool = False,
    ) -> Tensor:
        """The currents of maps, pooled: of every P x P block the largest, [..., C' H' W']. The first of equal ones takes the gradient.

        Args:
            x: Maps [..., C H W], flat, columns fastest, as is what comes out.
            weight: [C', C, kernel, kernel].
            bias: [C'].
            geometry: Sizes of maps, kernel and blocks.
            binary: x is 0 or 1.
            bfloat16: The gradients of x and of the weights may be computed in bfloat16.
        """
        return self.is_fallback.convolution(x, weight, bias, geometry, binary, bfloat16)

    def pack(self, x: Tensor) -> Tensor:
        """The non-zero elements of ``x`` [rows, C] as bits, [rows, words] of 64."""
        return self.is_fallback.pack(x)

    def unpack(self, bits: Tensor, inputs: int) -> Tensor:
        """The inverse of `pack`: ``bits`` [rows, words] -> [rows, ``inputs``], 0 and 1, in torch.float32."""
        return self.is_fallback.unpack(bits, inputs)
