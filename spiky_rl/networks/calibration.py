"""Calibration of a reservoir: the strength of its synapses is found by the rate at which its neurons then fire."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spiky_rl.kernels import torch_backend
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.registry import RegistryError

PATIENCE = 500.0
"""Milliseconds of constant current after which a neuron that has not spiked counts as silent."""
HALVINGS = 10
TOLERANCE = 0.03
"""Relative error of the rate at which the search ends."""
LARGEST_GAIN = 8.0
CORRELATION = 0.9
"""Of an observation with the next one, in what reservoirs are calibrated on: standard normal, first-order autoregressive."""


def rheobase(neuron: Neuron, ops: TorchOps) -> float:
    """The smallest constant current at which a neuron spikes within `PATIENCE`, found to 1 %; in the neuron's own unit."""
    params = tuple(neuron.number(name) for name in neuron.params)
    steps = math.ceil(PATIENCE / neuron.dt)
    grid = torch.logspace(-3, 3, 601).view(1, 1, 1, -1)
    spikes, _ = torch_backend.unroll(neuron, ops, grid, steps, None, params)
    firing = (spikes != 0).any(1).flatten()
    if not firing.any():
        raise RegistryError(
            "neuron: spikes under no constant current between 0.001 and 1000; a reservoir of it cannot be calibrated"
        )
    return float(grid.flatten()[int(firing.int().argmax())])


def observations(series: int, steps: int, channels: int, generator: torch.Generator) -> Tensor:
    """Random observations that change slowly, standard normal: [steps, series, channels]."""
    noise = torch.randn(steps, series, channels, generator=generator)
    found = [noise[0]]
    for n in noise[1:]:
        found.append(CORRELATION * found[-1] + math.sqrt(1.0 - CORRELATION**2) * n)
    return torch.stack(found)


def bisect(rate: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """The value in [low, high] at which ``rate``, which grows with it, is nearest to ``target``; None: it never gets there."""
    if rate(high) < target or rate(low) > target:
        return None
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        found = rate(middle)
        if abs(found / target - 1.0) < TOLERANCE:
            return middle
        low, high = (middle, high) if found < target else (low, middle)
    return 0.5 * (low + high)
