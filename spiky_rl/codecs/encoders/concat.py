"""Concat: the channels of two encoders of the same observation, concatenated.

    signal = [first(x), second(x)]

By default the signal is the observation itself and the events of its changes, which make velocities visible if only positions are
observed.
Skin and muscle have such pairs of receptors: tonic ones for the magnitude of a stimulus, phasic ones for its changes.

Source: Johansson & Flanagan (2009), slowly and fast adapting afferents.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.registry import ComponentSpec


class ConcatEncoder(Encoder):
    """[T, B, O] -> [T, K, B, C1 + C2], or [T, 1, B, C1 + C2] if both signals are constant over the control step."""

    parts = {"first": ("encoders", "direct"), "second": ("encoders", "delta")}

    def __init__(self, first: ComponentSpec, second: ComponentSpec, inputs: int, steps: int) -> None:
        super().__init__()
        self.first: Encoder = first.build(inputs=inputs, steps=steps)
        self.second: Encoder = second.build(inputs=inputs, steps=steps)
        self.width = self.first.width + self.second.width
        self.binary = self.first.binary and self.second.binary
        self.topographic = self.first.topographic and self.second.topographic
        self.only_changes = self.first.only_changes and self.second.only_changes
        self.state_sizes = (*self.first.state_sizes, *self.second.state_sizes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _concat_signals(self.first(x), self.second(x))

    @override
    def encode_stateful(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        count = len(self.first.state_sizes)
        first, first_state = self.first.encode_stateful(x, None if state is None else state[:count], keep)
        second, second_state = self.second.encode_stateful(x, None if state is None else state[count:], keep)
        return _concat_signals(first, second), (*first_state, *second_state)

    @override
    def resample_noise(self, updates: int) -> None:
        self.first.resample_noise(updates)
        self.second.resample_noise(updates)

    @override
    def count_operations(self, x: Tensor) -> Tensor:
        return self.first.count_operations(x) + self.second.count_operations(x)


def _concat_signals(one: Tensor, two: Tensor) -> Tensor:
    """Concatenate signals [T, K or 1, B, C]; a constant signal is repeated K times beside one that is not constant."""
    steps = max(one.shape[1], two.shape[1])
    return torch.cat([s.expand(-1, steps, -1, -1) for s in (one, two)], dim=-1)
