"""What the backends with compiled kernels share: their operators, in which autograd and compilers see the kernels whole."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from spiky_rl.kernels import operators
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.runs import Launch, Loop, Run


class Compiled(Backend):
    """Kernels for the tensors of one kind of device."""

    device: ClassVar[str]
    convolution_forward: Callable[..., None]
    """Fills y [rows, N] with the pooled currents of x [rows, C], and where they are given its bits and each maximum's place."""
    convolution_backward: Callable[..., None]
    """Fills the gradients of x (empty: not wanted), weight and bias."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        """How often each kernel ran in this process: the proof that it did."""

    @abstractmethod
    def forward(self, run: Launch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [T, K, B, N], the last states [S, B, N] and the traced potentials [T, K, B, N] (empty: not asked for)."""

    @abstractmethod
    def backward(
        self, run: Launch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Gradients of current, state and params, as large as they are (empty: there is none)."""

    @abstractmethod
    def recurrent_forward(self, run: Loop, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, of neurons whose output returns into their current."""

    @abstractmethod
    def recurrent_backward(
        self, run: Loop, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Gradients of current, state, params and synapses, as large as they are (empty: there is none)."""

    @abstractmethod
    def linear_forward(
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        """x [rows, C] times weight [N, C] -> [rows, N]; with ``bits``, fills them."""

    @abstractmethod
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        """Gradients of weight [N, C] and bias [N] from events [rows, words] and the gradient [rows, N] of the output."""

    def unroll(self, run: Run) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)

    def recurrent(self, run: Run) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)
