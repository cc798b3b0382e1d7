"""Calibration of a reservoir: the strength of its synapses is found by the rate at which its neurons then fire."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

MAX_STEPS = 500.0
"""Milliseconds of constant current after which a neuron that has not spiked counts as silent."""
HALVINGS = 10
TOLERANCE = 0.03
"""Relative error of the rate at which the search ends."""
LARGEST_GAIN = 8.0
BIAS_SHARE, INPUT_SHARE = 0.6, 0.8
"""Shares of the target rate that constant currents, and these with the input, may give before recurrence."""
LARGEST_SHIFT = 10.0
"""The furthest that the bias is moved, in rheobases."""
CORRELATION = 0.9
"""Correlation of an observation with the next one, in what reservoirs are calibrated on: standard normal, autoregressive."""


def find_rheobase(neuron: Neuron, ops: TorchOps) -> float:
    """The smallest constant current at which a ``neuron`` spikes within `MAX_STEPS`, found to 1 %; in the neuron's own unit.

    ``ops`` is the vocabulary that it runs on.
    """
    params = tuple(neuron.get_step_value(name) for name in neuron.params)
    steps = math.ceil(MAX_STEPS / neuron.dt)
    grid = torch.logspace(-3, 3, 601).view(1, 1, 1, -1)
    spikes, _ = dispatch.unroll(dispatch.REFERENCE, neuron, ops, grid, steps, None, params)
    firing = (spikes != 0).any(1).flatten()
    if not firing.any():
        raise RegistryError(
            "neuron: spikes under no constant current between 0.001 and 1000; a reservoir of it cannot be calibrated"
        )
    return float(grid.flatten()[int(firing.int().argmax())])


def make_observations(series: int, steps: int, channels: int, generator: torch.Generator) -> Tensor:
    """Random observations that change slowly, standard normal: [steps, series, channels], drawn from the ``generator``."""
    noise = torch.randn(steps, series, channels, generator=generator)
    filtered = [noise[0]]
    for n in noise[1:]:
        filtered.append(CORRELATION * filtered[-1] + math.sqrt(1.0 - CORRELATION**2) * n)
    return torch.stack(filtered)


def bisect(rate: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """The value at which ``rate``, which grows with it, is nearest to ``target``; None: it never gets there.

    It is looked for from ``low`` to ``high``.
    """
    if rate(high) < target or rate(low) > target:
        return None
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        attained = rate(middle)
        if abs(attained / target - 1.0) < TOLERANCE:
            return middle
        low, high = (middle, high) if attained < target else (low, middle)
    return 0.5 * (low + high)


class CalibratedReservoir(Protocol):
    """Interface of a reservoir that is calibrated: its currents and weights in rheobases, and the rheobase, ``unit``."""

    bias: Tensor
    input_weight: torch.nn.Parameter
    weight: Tensor
    unit: float


def calibrate_rate(
    net: CalibratedReservoir, weight: Tensor, target: float, rate: Callable[[], float]
) -> None:
    """Bring neurons to the target rate: the current alone to a part of it at most, input to more, recurrence to all.

    Each of the three is taken as it was asked for where that does not fire too much, and reduced where it does. Where
    recurrence, which may also inhibit, does not reach the target, the bias makes up for it.

    Args:
        net: The reservoir, whose ``bias``, ``input_weight`` and ``weight`` are changed.
        weight: Its recurrent weights at a strength of 1.
        target: In Hz.
        rate: Measures it, in Hz.

    Raises:
        RegistryError: The target is out of reach.
    """
    bias, drawn = net.bias.clone(), net.input_weight.detach().clone()

    def with_bias(shift: float) -> float:
        net.bias = bias + shift * net.unit
        return rate()

    def with_input(factor: float) -> float:
        net.input_weight.data = factor * drawn
        return rate()

    def with_strength(strength: float) -> float:
        net.weight = strength * weight
        return rate()

    with_strength(0.0)
    with_input(0.0)
    if with_bias(0.0) > BIAS_SHARE * target:
        with_bias(bisect(with_bias, BIAS_SHARE * target, -LARGEST_SHIFT, 0.0) or 0.0)
    if with_input(1.0) > INPUT_SHARE * target:
        with_input(bisect(with_input, INPUT_SHARE * target, 0.0, 1.0) or 1.0)
    gain = bisect(with_strength, target, 0.0, LARGEST_GAIN)
    if gain is not None:
        with_strength(gain)
        return
    with_strength(1.0)
    bias = net.bias.clone()
    shift = bisect(with_bias, target, -LARGEST_SHIFT, LARGEST_SHIFT)
    if shift is None:
        raise RegistryError(
            f"target_rate: {target} Hz cannot be reached by this reservoir, whatever its bias;"
            f" it fires at most at {with_bias(LARGEST_SHIFT):.1f} Hz"
        )
    with_bias(shift)
