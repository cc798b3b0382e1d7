"""Beside: two encoders of the same observation, their channels side by side.

    signal = [first(x), second(x)]

As skin and muscle have tonic receptors, which tell how much there is, and phasic ones, which tell how it changes: by default
the observation itself beside the events of its changes, which make velocities visible where only positions are observed.

Source: Johansson & Flanagan (2009), slowly and fast adapting afferents.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.registry import ComponentSpec


class ConcatEncoder(Encoder):
    """[T, B, O] -> [T, K, B, C1 + C2], or [T, 1, B, C1 + C2] where both are constant over the control step."""

    parts = {"first": ("encoders", "direct"), "second": ("encoders", "delta")}

    def __init__(self, first: ComponentSpec, second: ComponentSpec, inputs: int, steps: int) -> None:
        super().__init__()
        self.first: Encoder = first.build(inputs=inputs, steps=steps)
        self.second: Encoder = second.build(inputs=inputs, steps=steps)
        self.width = self.first.width + self.second.width
        self.binary = self.first.binary and self.second.binary
        self.topographic = self.first.topographic and self.second.topographic
        self.state_sizes = (*self.first.state_sizes, *self.second.state_sizes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _joined(self.first(x), self.second(x))

    @override
    def encode_stateful(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        count = len(self.first.state_sizes)
        one, after = self.first.encode_stateful(x, None if state is None else state[:count], keep)
        two, rest = self.second.encode_stateful(x, None if state is None else state[count:], keep)
        return _joined(one, two), (*after, *rest)

    @override
    def resample_noise(self, updates: int) -> None:
        self.first.resample_noise(updates)
        self.second.resample_noise(updates)

    @override
    def count_operations(self, x: Tensor) -> Tensor:
        return self.first.count_operations(x) + self.second.count_operations(x)


def _joined(one: Tensor, two: Tensor) -> Tensor:
    """Signals [T, K or 1, B, C] as one; what is constant over the control step is repeated beside what is not."""
    steps = max(one.shape[1], two.shape[1])
    return torch.cat([s.expand(-1, steps, -1, -1) for s in (one, two)], dim=-1)
