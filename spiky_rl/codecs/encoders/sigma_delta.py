"""Sigma-delta: graded changes; an observation is sent as by how much it has changed, once that is worth it.

    d = x - ref;   event = d where |d| >= threshold, else 0;   ref <- ref + event

in the first inner step of a control step; in the others x has not changed, and nothing is sent. ``ref`` is what the receiver
knows of x, never wrong by the threshold or more, at any scale of x. It starts at 0, so the first step of an episode sends
whole values. In a stateful network it is carried through the episode, and the receiver has to sum: sigma-delta neurons
do. In a stateless one every control step is a first one, which sends the observation itself, short of what is below the threshold.

Events are graded: their synaptic operations are multiplications. The gradient is that of what is sent, the threshold a
constant.

Source: O'Connor & Welling (2016); Orchard et al. (2021), lava-dl's sigma_delta.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option


class SigmaDeltaEncoder(Encoder):
    """[T, B, O] -> events [T, K, B, O], zero but for the first inner step; state: the references [B, O]."""

    topographic = True

    class Options(Settings):
        threshold: float = option(0.1, "smallest change that is sent, in units of the observation", low=0.0)

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps, self.threshold = inputs, steps, options.threshold
        self.state_sizes = (inputs,)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._first(self._event(x))

    @override
    def encode_stateful(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if state is None:
            return self(x), ()
        reference, events = state[0], []
        for t in range(x.shape[0]):
            if keep is not None:
                reference = reference * keep[t].unsqueeze(-1)
            events.append(self._event(x[t] - reference))
            reference = reference + events[-1]
        return self._first(torch.stack(events)), (reference,)

    def _event(self, change: Tensor) -> Tensor:
        return torch.where(change.abs() >= self.threshold, change, torch.zeros_like(change))

    def _first(self, events: Tensor) -> Tensor:
        """Events [T, B, O] in the first of K inner steps."""
        return torch.stack([events, *[torch.zeros_like(events)] * (self.steps - 1)], dim=1)

    def count_operations(self, x: Tensor) -> Tensor:
        """Two per observation of ``x``: the difference and the reference's move."""
        return torch.full(x.shape[:2], 2.0 * x.shape[-1], device=x.device)
