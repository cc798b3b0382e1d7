"""Initial weights of a classifier by its recordings: every layer then spikes at a known rate, whatever the size of their counts.

Policies see normalised observations, for which connections draw their weights. Recordings are counts whose size nobody knows: with the
same weights a layer is silent on some recordings and saturated on others. So for each layer in turn, biases take off the mean of its
currents, and weights are scaled until the share of neurons that spike is `RATE`, or as near as recordings with few events come.

Source: Rossbroich et al. (2022), fluctuation-driven initialisation, and Mishkin & Matas (2016), LSUV: measured, not by a formula.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spiky_rl.classification.training import compute_logits
from spiky_rl.config.options import UserError
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.reservoirs.calibration import bisect

RATE = 0.1
"""Share of a layer's neurons that spike in an inner step, on the mean; or half of what very large weights reach, if that is less."""
MAX_FACTOR = 1e4
"""Factor of a layer's weights at most; its inverse at least."""


@torch.no_grad()
def scale_to_recordings(network: SpikingNetwork, frames: Tensor) -> None:
    """Scale the freshly drawn weights of a ``network`` to ``frames`` [T, B, O], layer by layer.

    A layer of graded neurons gets currents of standard deviation 1.

    Raises UserError for a network that is not feed-forward, and for a layer that no factor lets spike.
    """
    if not isinstance(network, FeedForward):
        raise UserError("--initial data: not available for this agent's network; allowed: agent")
    for index, layer in enumerate(network.layers):
        link: Any = layer.connection
        bias, weight = link.bias, link.weight
        signal = _record_signal(network, frames)[index]
        if bias.requires_grad:
            bias -= link(signal).flatten(0, -2).mean(0).view(len(bias), -1).mean(1)
        if layer.neuron.graded:
            deviation = float(link(signal).std())
            if (
                not 1.0 / MAX_FACTOR <= deviation <= MAX_FACTOR
            ):  # a layer below is silent, or numbers overflow
                raise _make_factor_error(index)
            factor = 1.0 / deviation
        else:
            factor = _find_factor(network, frames, index, weight, bias)
        weight *= factor
        bias *= factor


def _find_factor(network: FeedForward, frames: Tensor, index: int, weight: Tensor, bias: Tensor) -> float:
    """Return the factor of ``weight`` and ``bias`` with which the layer at ``index`` spikes at `RATE`. Raises UserError."""
    drawn = weight.clone(), bias.clone()

    def measure_rate(exponent: float) -> float:
        weight.copy_(drawn[0] * math.exp(exponent))
        bias.copy_(drawn[1] * math.exp(exponent))
        return float((_record_signal(network, frames)[index + 1] != 0).float().mean())

    largest = math.log(MAX_FACTOR)
    target = min(RATE, measure_rate(largest) / 2.0)
    exponent = bisect(measure_rate, target, -largest, largest) if target else None
    weight.copy_(drawn[0])
    bias.copy_(drawn[1])
    if exponent is None:
        raise _make_factor_error(index)
    return math.exp(exponent)


def _make_factor_error(index: int) -> UserError:
    """Return the error that no factor up to `MAX_FACTOR` lets the layer at ``index`` spike."""
    return UserError(f"--initial data: no factor of its weights lets layer {index + 1} spike; allowed: agent")


def _record_signal(network: FeedForward, frames: Tensor) -> list[Tensor]:
    """Return the input of every layer of a ``network``, and of its decoder, for ``frames``."""
    record = ForwardRecord(only_signal=True)
    compute_logits(network, frames, record)
    return record.signal
