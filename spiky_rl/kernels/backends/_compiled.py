"""Base class of the backends with compiled kernels, which run as torch operators."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, override

from torch import Tensor

from spiky_rl.kernels import operators
from spiky_rl.kernels.backends.base import Backend
from spiky_rl.kernels.launch import KernelLaunch, NeuronRun, RecurrentLaunch


class CompiledBackend(Backend):
    """Compiled kernels for the tensors of one device type."""

    device: ClassVar[str]
    convolution_forward: Callable[..., None]
    """On the CPU: fills y [rows, N] with the pooled currents of x [rows, C]; if given, also the bits of x and the position of each maximum."""
    convolution_backward: Callable[..., None]
    """On the CPU: fills the gradients of x (skipped if empty), weight and bias."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        """Number of runs of each kernel in this process; tests prove with it that a kernel ran."""

    @staticmethod
    def allocate_outputs(
        run: KernelLaunch, states: int, last: bool, trace: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Allocate the results of `forward` for a ``run`` with a number of ``states``."""
        T, _, B, N = run.current.shape
        shape, new = (T, run.steps, B, N), run.current.new_empty
        return new(shape), new((states, B, N) if last else (0,)), new(shape if trace else (0,))

    @abstractmethod
    def forward(self, run: KernelLaunch, last: bool, trace: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs [T, K, B, N], the last states [S, B, N] and the traced first states [T, K, B, N].

        Args:
            run: The launch.
            last: Whether to return the states after the last step, else an empty tensor.
            trace: Whether to return the first state after every step, else an empty tensor.
        """

    @abstractmethod
    def backward(
        self, run: KernelLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the gradients of current, state and params, in their shapes; empty for a tensor that the run does not have.

        Args:
            run: The launch of the forward pass.
            grad_output: Gradient of the outputs [T, K, B, N]; None for zero.
            grad_last: Gradient of the states after the last step, [S, B, N]; None for zero.
        """

    @abstractmethod
    def recurrent_forward(
        self, run: RecurrentLaunch, last: bool, trace: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run `forward` with a recurrent loop."""

    @abstractmethod
    def recurrent_backward(
        self, run: RecurrentLaunch, grad_output: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Run `backward` with a recurrent loop; the gradient of the synapses comes last."""

    @abstractmethod
    def linear_forward(
        self, x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, binary: bool
    ) -> Tensor:
        """Return the output of a linear layer, [rows, N].

        Args:
            x: [rows, C].
            bits: If given, receives the events of x, one bit each, [rows, words].
            weight: [N, C].
            bias: [N]; None for zero.
            binary: Whether x is 0 or 1.
        """

    @abstractmethod
    def linear_backward(self, bits: Tensor, grad: Tensor, inputs: int, bias: bool) -> tuple[Tensor, Tensor]:
        """Return the gradients of weight [N, C] and bias [N] of a linear layer.

        Args:
            bits: The events of its input, [rows, words].
            grad: Gradient of its output, [rows, N].
            inputs: C.
            bias: Whether the layer has a bias; else the bias gradient is empty.
        """

    @override
    def run_neuron(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)

    @override
    def run_recurrent(self, run: NeuronRun) -> tuple[Tensor, tuple[Tensor, ...]]:
        return operators.unroll(run)
