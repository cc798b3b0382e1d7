"""Initial weights of a classifier, scaled to its recordings so that every layer spikes at a known rate, whatever the event counts.

Connections draw their weights for normalised observations, which policies have. The counts in recordings may have any size: with the
same weights a layer may be silent on some recordings and saturated on others. So layer by layer, the bias subtracts the mean of the
currents, and the weights are scaled until a share `RATE` of the neurons spikes, or as close to it as recordings with few events allow.

Source: Rossbroich et al. (2022), fluctuation-driven initialisation, and Mishkin & Matas (2016), LSUV; the scale is measured, not computed
from a formula.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spiky_rl.classification.training import compute_logits
from spiky_rl.config.options import UserError
from spiky_rl.metrics.spikes import compute_layer_activity
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.reservoirs.calibration import bisect

RATE = 0.1
"""Target of the mean share of a layer's neurons that spike in an inner step.

If the largest weights (`MAX_FACTOR`) give less than twice this share, the target is half of what they give.
"""
MAX_FACTOR = 1e4
"""Maximum factor of a layer's weights; the minimum is its inverse."""


@torch.no_grad()
def scale_to_recordings(network: SpikingNetwork, frames: Tensor) -> None:
    """Scale the new weights of a ``network`` to ``frames`` [T, B, O], layer by layer.

    A layer of graded neurons that do not spike gets currents of standard deviation 1.

    Raises UserError if the network is not feed-forward, or a layer does not spike with any factor.
    """
    if not isinstance(network, FeedForward):
        raise UserError("--initial data: not available for this agent's network; allowed: agent")
    for index, layer in enumerate(network.layers):
        link: Any = layer.connection
        bias, weight = link.bias, link.weight
        signal = _record_signals(network, frames).signals[index]
        if bias.requires_grad:
            bias -= link(signal).flatten(0, -2).mean(0).view(len(bias), -1).mean(1)
        if layer.neuron.graded and not layer.neuron.splits_spikes:
            deviation = float(link(signal).std())
            # outside these bounds a layer below is silent, or the currents overflow
            if not 1.0 / MAX_FACTOR <= deviation <= MAX_FACTOR:
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
        return compute_layer_activity(_record_signals(network, frames))[index].rate

    largest = math.log(MAX_FACTOR)
    target = min(RATE, measure_rate(largest) / 2.0)
    exponent = bisect(measure_rate, target, -largest, largest) if target else None
    weight.copy_(drawn[0])
    bias.copy_(drawn[1])
    if exponent is None:
        raise _make_factor_error(index)
    return math.exp(exponent)


def _make_factor_error(index: int) -> UserError:
    """Return the error that the layer at ``index`` does not spike with any factor up to `MAX_FACTOR`."""
    return UserError(
        f"--initial data: layer {index + 1} does not spike with any scale of its weights; allowed: agent"
    )


def _record_signals(network: FeedForward, frames: Tensor) -> ForwardRecord:
    """Return the record of a ``network``'s pass over ``frames``, without potentials and operations."""
    record = ForwardRecord(only_signals=True)
    compute_logits(network, frames, record)
    return record
