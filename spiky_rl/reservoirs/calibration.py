"""Calibration of a reservoir: a search for the synaptic strength that gives a target firing rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spiky_rl.config.registry import RegistryError
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron

MAX_LATENCY_MS = 500.0
"""Duration of the constant current; a neuron without a spike within it counts as silent."""
HALVINGS = 10
"""Maximum halvings of the interval in a search."""
TOLERANCE = 0.03
"""Relative error of the rate at which a search ends."""
MAX_GAIN = 8.0
"""Maximum factor of the recurrent weights."""
BIAS_SHARE, INPUT_SHARE = 0.6, 0.8
"""Maximum shares of the target rate without recurrence: with the bias only, and with bias and input."""
MAX_SHIFT = 10.0
"""Maximum shift of the bias, in rheobases."""
CORRELATION = 0.9
"""Correlation of successive observations in the calibration's autoregressive, standard normal input."""


def find_rheobase(neuron: Neuron, ops: TorchOps) -> float:
    """Return the smallest constant current at which ``neuron`` spikes within `MAX_LATENCY_MS`, in the neuron's unit and at most 2.4 % too large."""
    params = tuple(neuron.get_step_value(name) for name in neuron.params)
    steps = math.ceil(MAX_LATENCY_MS / neuron.dt)
    grid = torch.logspace(-3, 3, 601).view(1, 1, 1, -1)
    spikes, _ = dispatch.unroll(dispatch.REFERENCE, neuron, ops, grid, steps, None, params)
    firing = (spikes != 0).any(1).flatten()
    if not firing.any():
        raise RegistryError(
            "neuron: no spike with any constant current between 0.001 and 1000; a reservoir of this neuron cannot be calibrated"
        )
    return float(grid.flatten()[int(firing.int().argmax())])


def make_observations(series: int, steps: int, channels: int, generator: torch.Generator) -> Tensor:
    """Return slowly changing, standard normal random observations [steps, series, channels]."""
    noise = torch.randn(steps, series, channels, generator=generator)
    filtered = [noise[0]]
    for n in noise[1:]:
        filtered.append(CORRELATION * filtered[-1] + math.sqrt(1.0 - CORRELATION**2) * n)
    return torch.stack(filtered)


def bisect(rate: Callable[[float], float], target: float, low: float, high: float) -> float | None:
    """Return a value from ``low`` to ``high`` at which the increasing function ``rate`` is near ``target``; None if there is none."""
    if rate(high) < target or rate(low) > target:
        return None
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        attained = rate(middle)
        if abs(attained / target - 1.0) < TOLERANCE:
            return middle
        if attained < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


class ReservoirWeights(NamedTuple):
    """The constant current, input weights and recurrent weights of a reservoir."""

    bias: Tensor
    input_weight: Tensor
    weight: Tensor


def calibrate_rate(
    start: ReservoirWeights, rheobase: float, target: float, measure_rate: Callable[[ReservoirWeights], float]
) -> ReservoirWeights:
    """Return drives with which the neurons fire at the target rate.

    The bias alone may give a share `BIAS_SHARE` of the target, bias and input a share `INPUT_SHARE`; each is reduced if it gives
    more. Then the recurrent weights are scaled to reach the target. If recurrence, which may also inhibit, does not reach it,
    the bias is shifted instead.

    Args:
        start: The drives before calibration, with recurrent weights at a strength of 1.
        rheobase: Unit of the shift of the bias.
        target: Target rate in Hz.
        measure_rate: Returns the rate in Hz with given drives.

    Raises:
        RegistryError: If no bias reaches the target.
    """
    now, unshifted_bias = start, start.bias

    # each of these functions changes one of the drives, which stays changed, and returns the rate with it
    def try_bias(shift: float) -> float:
        nonlocal now
        now = now._replace(bias=unshifted_bias + shift * rheobase)
        return measure_rate(now)

    def try_input(factor: float) -> float:
        nonlocal now
        now = now._replace(input_weight=factor * start.input_weight)
        return measure_rate(now)

    def try_strength(strength: float) -> float:
        nonlocal now
        now = now._replace(weight=strength * start.weight)
        return measure_rate(now)

    try_strength(0.0)
    try_input(0.0)  # now only the bias drives the neurons
    if try_bias(0.0) > BIAS_SHARE * target:
        try_bias(bisect(try_bias, BIAS_SHARE * target, -MAX_SHIFT, 0.0) or 0.0)
    if try_input(1.0) > INPUT_SHARE * target:
        try_input(bisect(try_input, INPUT_SHARE * target, 0.0, 1.0) or 1.0)
    gain = bisect(try_strength, target, 0.0, MAX_GAIN)
    if gain is not None:
        try_strength(gain)
        return now
    try_strength(1.0)
    unshifted_bias = now.bias  # `try_bias` now shifts the bias that may have been reduced above
    shift = bisect(try_bias, target, -MAX_SHIFT, MAX_SHIFT)
    if shift is None:
        raise RegistryError(
            f"target_rate: {target} Hz cannot be reached by this reservoir with any bias;"
            f" its maximum is {try_bias(MAX_SHIFT):.1f} Hz"
        )
    try_bias(shift)
    return now
