"""Base of the backends with compiled kernels: their operators, in which autograd and compilers see the kernels whole."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, override

from torch import Tensor

from spiky_rl.kernels import operators
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.launch import KernelLaunch, NeuronRun, RecurrentLaunch


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

    @staticmethod
    def outputs(run: KernelLaunch, states: int, last: bool, trace: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Room for what `forward` gives of a ``run`` that has so many ``states``, with its ``last`` and ``trace``."""
        T, _, B, N = run.current.shape
        shape, new = (T, run.steps, B, N), run.current.new_empty
        return new(shape), new((states, B, N) if last else (0,)), new(shape if trace else (0,))

    @abstractmethod
    def forward(self, run: KernelLaunch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [T, K, B, N], the last states [S, B, N] and the potentials [T, K, B, N]; what is not asked for is empty.

        Args:
            run: What runs.
            last: The states after the last step are wanted.
            trace: The first state after every step is.
        """

    @abstractmethod
    def backward(
        self, run: KernelLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Gradients of current, state and params, as large as they are (empty: there is none).

        Args:
            run: What has run.
            grad_output: Gradient of the outputs [T, K, B, N]; None: 0.
            grad_last: Gradient of the states after the last step, [S, B, N]; None: 0.
        """

    @abstractmethod
    def recurrent_forward(
        self, run: RecurrentLaunch, last: bool, trace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, with its ``last`` and ``trace``, for a ``run`` whose output returns into its current."""

    @abstractmethod
    def recurrent_backward(
        self, run: RecurrentLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """As `backward`, of ``run``, ``grad_output`` and ``grad_last``; the gradient of the synapses comes last."""

    @abstractmethod
    def linear_forward(
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        """A linear layer: [rows, N].

        Args:
            x: [rows, C].
            bits: Gets the events of x, a bit each, [rows, words]; None: they are not kept.
            weight: [N, C].
            bias: [N]; None: 0.
            binary: x is 0 or 1.
        """

    @abstractmethod
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        """Gradients of weight [N, C] and bias [N] of a linear layer.

        Args:
            bits: Its events, [rows, words].
            grad: Gradient of its output, [rows, N].
            inputs: C.
            bias: Whether it has one; else its gradient is empty.
        """

    @override
    def run_neuron(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)

    @override
    def run_recurrent(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)
