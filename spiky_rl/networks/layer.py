"""A layer: a connection, a neuron, and the parameters that the neuron's step takes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.kernels.recompute import recomputed
from spiky_rl.neurons.base import Neuron, Param

LARGEST = 1e9
"""Of a learned parameter without an upper bound: beyond it float32 overflows on the way."""


class Parameters(torch.nn.Module):
    """A neuron's parameters: numbers, or learned values per neuron.

    A learned parameter is stored as its logarithm where it must be positive, and read within its range, so no step of the
    optimiser leaves it; a time constant enters the step as its decay exp(-dt/tau).
    """

    def __init__(self, neuron: Neuron, width: int) -> None:
        super().__init__()
        self.neuron = neuron
        for name in neuron.learn:
            value = neuron.chosen[name]
            stored = math.log(value) if _positive(neuron.params[name]) else value
            self.register_parameter(name, torch.nn.Parameter(torch.full((width,), stored)))

    def forward(self) -> tuple[Tensor | float, ...]:
        """The values as the step takes them, in the order of ``neuron.params``: numbers or [N] tensors."""
        values: list[Tensor | float] = []
        for name, param in self.neuron.params.items():
            if name in self.neuron.learn:
                value = self._in_range(name, param)
                values.append(torch.exp(-self.neuron.dt / value) if param.transform == "decay" else value)
            else:
                values.append(self.neuron.number(name))
        return tuple(values)

    def _in_range(self, name: str, param: Param) -> Tensor:
        stored, (low, high) = self.get_parameter(name), self.neuron.limits(name)
        if _positive(param):
            top = LARGEST if high is None else high
            return stored.clamp(math.log(low or 1.0), math.log(top)).exp()
        return stored if low is None and high is None else stored.clamp(low, high)


class Layer(torch.nn.Module):
    """Connection -> neuron, run over time by a backend."""

    def __init__(
        self,
        connection: Any,
        neuron: Neuron,
        width: int,
        backend: str,
        binary: bool,
        bfloat16: bool,
        recompute: bool,
    ) -> None:
        """
        Args:
            connection: Signal [..., C] -> current [..., N].
            neuron: Run over time.
            width: N.
            backend: What runs connection and neuron.
            binary: The signal is 0 or 1.
            bfloat16: The gradient of the signal may be computed in bfloat16.
            recompute: Keep of the forward pass only the signal (one bit per event where it is binary), and run the layer
                again in the backward pass.
        """
        super().__init__()
        self.connection = connection
        self.neuron = neuron
        self.parameters_of_neuron = Parameters(neuron, width)
        self.width = width
        self.backend, self.binary, self.bfloat16_gradient, self.recompute = (
            backend,
            binary,
            bfloat16,
            recompute,
        )

    def forward(
        self,
        ops: TorchOps,
        signal: Tensor,
        steps: int,
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
        trace: list[Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Signal [T, K or 1, B, C] -> output [T, K, B, N] and the states [B, N] after the last step.

        From rest where ``state`` is None; then no state comes out.
        """

        def run(signal: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            current = self.connection(signal, self.backend, self.binary, self.bfloat16_gradient)
            output, new = dispatch.unroll(
                *(self.backend, self.neuron, ops, current, steps, state if carried else None),
                *(self.parameters_of_neuron(), keep, trace),
            )
            return output, *new

        carried = state is not None
        if self.recompute and trace is None and torch.is_grad_enabled():
            output, *new = recomputed(run, self.binary, tuple(self.parameters()), signal, *(state or ()))
        else:
            output, *new = run(signal, *(state or ()))
        return output, tuple(new)

    def operations(self, signal: Tensor) -> Tensor:
        """Effective operations of the connection for signal [T, K or 1, B, C]: [T, B]."""
        return self.connection.operations(signal).sum(1)


def _positive(param: Param) -> bool:
    return param.low is not None and param.low > 0
