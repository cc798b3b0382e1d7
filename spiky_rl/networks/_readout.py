"""A small trained readout on top of fixed features."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def make_mlp_readout(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers of ``inputs``, ``hidden`` and ``outputs`` values with ELU between them, the last of which begins near zero."""
    widths = [inputs, *hidden, outputs]
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.ELU()]
    last = parts[-2]
    assert isinstance(last, nn.Linear)
    # a small first action: what a random readout of many features says is loud
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
    return nn.Sequential(*parts[:-1])
