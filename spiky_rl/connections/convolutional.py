"""Convolutional connection: one kernel of weights slides over maps; currents may be pooled before the neurons get them.

    I[n, r, c] = b_n + sum_(m, i, j) W[n, m, i, j] s[m, stride r + i - padding, stride c + j - padding]

with output channel n, row r and column c, input channel m, and row i and column j of the kernel. The layer's entry in ``layers``
is the number of output channels. With ``pool`` P > 1, every P x P block of currents is replaced by its largest or mean value,
and incomplete blocks are left out: a layer of 12 channels with ``kernel: 5`` and ``pool: 2`` is the 12C5-MP2 of the literature.
With max pooling the ``cpu`` backend has an event-driven kernel; torch computes all other cases, on every backend.

Initial weights are orthogonal over the kernel, and biases uniform, as in the linear connection. The largest of P^2 currents
exceeds their mean. The initial biases are lowered by the expected excess, for independent currents and a quarter of the inputs
spiking. In two new layers with ``pool: 2``, 58 % and 26 % of the LIF neurons then fire. With unchanged biases it would be 84 %
and 49 %, and a quarter of the second layer would fire in every step.

Source: LeCun et al. (1989); spiking and pooled by current as in Eshraghian et al. (2023), snnTorch.
"""

from __future__ import annotations

import math
from typing import Literal, Self, override

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional, grad

from spiky_rl.config.options import RegistryError, Settings, Widths, option
from spiky_rl.connections._cost import ConnectionCost, count_zeros
from spiky_rl.connections.base import Connection, Shape, count_values
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.convolution import LARGEST_POOL

SIGNAL_RMS = 0.5
"""Assumed root mean square of the signal, that of spikes from a quarter of the inputs."""


class Convolutional(Connection):
    """[..., C H W] -> [..., C' H' W'], flattened with the columns fastest."""

    class Options(Settings):
        kernel: int = option(5, "height and width of the kernel", low=1)
        stride: int = option(1, "step of the kernel in rows and columns", low=1)
        padding: int = option(
            0, "rows and columns of zeros around the maps; kernel // 2 keeps their size", low=0
        )
        pool: int = option(1, "P: side of the pooled blocks of currents; 1: no pooling", low=1)
        pooling: Literal["max", "average"] = option("max", "value that replaces a block of currents")
        gain: float = option(2.0, "gain of the orthogonal initialisation", low=0.0)
        offset: float = option(0.25, "centre of the initial biases, in units of the threshold")
        spread: float = option(
            0.5, "half-width of the uniform distribution of initial biases around the offset", low=0.0
        )
        map: Widths = option(
            (), "[channels, height, width] of the input, if it is a vector; empty: the input consists of maps"
        )

        @model_validator(mode="after")
        def _check_shapes(self) -> Self:
            if self.padding >= self.kernel:
                raise RegistryError(
                    f"padding: {self.padding} is out of range; it must be less than kernel: {self.kernel}, which would see only zeros"
                )
            if len(self.map) not in (0, 3):
                raise RegistryError(f"map: {list(self.map)} is not a shape; give [channels, height, width]")
            return self

    def __init__(self, options: Options, inputs: Shape | int, outputs: int) -> None:
        super().__init__()
        self.inputs = _get_map_shape(inputs, options.map)
        kernel, self.stride, self.padding = options.kernel, options.stride, options.padding
        self.pool, self.pooling = options.pool, options.pooling
        self.in_order = False
        """Whether the backend's own kernel computes the currents in place of torch, as in the reference of an export to C. It is slower,
        but the order in which it sums depends only on the sizes; torch's also depends on the CPU's instructions, the batch and the
        threads. It has no effect unless `summed_by_torch` is True."""
        channels, *size = self.inputs
        self.positions = [max(0, (side + 2 * self.padding - kernel) // self.stride + 1) for side in size]
        """Number of rows and columns of currents before pooling; 0 if the kernel does not fit."""
        if (fewest := min(self.positions)) < self.pool:
            key, value = ("pool", self.pool) if fewest else ("kernel", kernel)
            most = fewest or min(size) + 2 * self.padding
            raise RegistryError(
                f"convolutional.{key}: {value} does not fit maps of {' x '.join(map(str, self.inputs))}; at most {most}"
            )
        self.shape = (outputs, *(count // self.pool for count in self.positions))
        weight = torch.empty(outputs, channels, kernel, kernel)
        self.weight = torch.nn.Parameter(torch.nn.init.orthogonal_(weight, options.gain))
        offset = options.offset
        if self.pooling == "max" and self.pool > 1:
            norm = float(self.weight.detach().flatten(1).norm(dim=1).mean())
            offset -= SIGNAL_RMS * norm * _expected_maximum(self.pool * self.pool)
        self.bias = torch.nn.Parameter(
            torch.empty(outputs).uniform_(offset - options.spread, offset + options.spread)
        )
        fan_out = self._count_reached_weights(torch.ones_like(weight))
        self.register_buffer("fan_out", fan_out, persistent=False)
        self.fan_out: Tensor
        """Number of synapses [C H W] of every input."""

    @override
    def forward(
        self, x: Tensor, backend: str = "auto", binary: bool = False, bfloat16: bool = False
    ) -> Tensor:
        if self.in_order or not self.summed_by_torch:
            geometry = (self.inputs, self.stride, self.padding, 1 if self.summed_by_torch else self.pool)
            kernels = dispatch.choose_backend(backend, x)
            current = kernels.convolution(x, self.weight, self.bias, geometry, binary, bfloat16)
            if not self.summed_by_torch:
                return current
            current = current.reshape(-1, self.shape[0], *self.positions)
        else:
            maps = x.reshape(-1, *self.inputs)
            current = functional.conv2d(maps, self.weight, self.bias, self.stride, self.padding)
        if self.pool > 1:
            pool_maps = functional.max_pool2d if self.pooling == "max" else functional.avg_pool2d
            current = pool_maps(current, self.pool)
        return current.reshape(*x.shape[:-1], self.width)

    @property
    def summed_by_torch(self) -> bool:
        """Whether torch computes the current on every backend; False for max pooling of blocks up to `LARGEST_POOL`."""
        return not (self.pooling == "max" and 1 < self.pool <= LARGEST_POOL)

    def operations(self, events: Tensor) -> Tensor:
        """Count effective operations: for each non-zero input, the kernel positions that cover it times the output channels.

        Fewer positions cover an input at the border. Positions in incomplete blocks, and the pooling itself, do not count.
        """
        return (events != 0).to(self.fan_out) @ self.fan_out

    @override
    def measure_cost(self, signal_index: int, inputs: int) -> ConnectionCost:
        weight = self.weight.detach()
        reached = self._count_reached_weights(weight)
        return ConnectionCost(
            signal_index,
            weights=weight.numel(),
            zeros=count_zeros(weight),
            dense=float(self.fan_out.sum()),
            count=lambda events: (events != 0).to(reached) @ reached,
            fan_out=float(reached.sum()),
        )

    def _count_reached_weights(self, weight: Tensor) -> Tensor:
        """Return the number of non-zero weights that each input reaches, [C H W], without positions that pooling cuts off."""
        _, rows, columns = self.shape
        used = weight.new_zeros(1, weight.shape[0], *self.positions)
        used[..., : rows * self.pool, : columns * self.pool] = 1.0
        # the gradient of a convolution sums, for every input, the weights at the used positions that cover it
        stored = (weight != 0).to(weight)
        return grad.conv2d_input((1, *self.inputs), stored, used, self.stride, self.padding).flatten()


def _get_map_shape(inputs: Shape | int, given: tuple[int, ...]) -> Shape:
    """Return (channels, height, width) of the input. Raises RegistryError if they are unknown or do not match its size."""
    size = count_values(inputs)
    if given:
        if math.prod(given) != size:
            raise RegistryError(
                f"convolutional.map: {list(given)} holds {math.prod(given)} values; the signal has {size}"
            )
        return given
    if isinstance(inputs, int) or len(inputs) != 3:
        raise RegistryError(
            f"convolutional: the signal is a vector of {size} without height and width; "
            "set map: [channels, height, width], an encoder that keeps maps (direct), or connection: linear"
        )
    return inputs


def _expected_maximum(count: int) -> float:
    """Return the expected maximum of ``count`` standard normal values, by Blom's formula."""
    share = (count - 0.375) / (count + 0.25)
    return float(math.sqrt(2.0) * torch.erfinv(torch.tensor(2.0 * share - 1.0)))
