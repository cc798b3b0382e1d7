"""Trained readout of fixed features."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def make_mlp_readout(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Make an MLP with ELU from ``inputs`` through ``hidden`` to ``outputs`` values; its initial output is near zero."""
    widths = [inputs, *hidden, outputs]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.ELU()]
    last = parts[-2]
    assert isinstance(last, nn.Linear)
    # a random readout of many features would give large first actions
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
    return nn.Sequential(*parts[:-1])
