"""Sigma-delta: graded events; the change of an observation is sent once it reaches a threshold.

    d = x - ref;   event = d where |d| >= threshold, else 0;   ref <- ref + event

in the first inner step of a control step; in the other inner steps x has not changed, and nothing is sent. ``ref`` is the
receiver's copy of x, with an error below the threshold at any scale of x. It starts at 0, so an episode's first step sends
whole values. A stateful network carries it through the episode, and the receiver must sum, as sigma-delta neurons do. A
stateless network starts from 0 in every control step and sends the observation itself, except values below the threshold.

Events are graded, so synaptic operations are multiplications. The gradient passes through the events; the threshold has none.

Source: O'Connor & Welling (2016); Orchard et al. (2021), lava-dl's sigma_delta.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option


class SigmaDeltaEncoder(Encoder):
    """[T, B, O] -> events [T, K, B, O], zero after the first inner step; state: the references [B, O]."""

    topographic = True
    only_changes = True

    class Options(Settings):
        threshold: float = option(0.1, "smallest change that is sent, in units of the observation", low=0.0)

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps, self.threshold = inputs, steps, options.threshold
        self.state_sizes = (inputs,)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._put_in_first_step(self._make_event(x))

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
            events.append(self._make_event(x[t] - reference))
            reference = reference + events[-1]
        return self._put_in_first_step(torch.stack(events)), (reference,)

    def _make_event(self, change: Tensor) -> Tensor:
        return torch.where(change.abs() >= self.threshold, change, torch.zeros_like(change))

    def _put_in_first_step(self, events: Tensor) -> Tensor:
        """Return a signal [T, K, B, O] with ``events`` [T, B, O] in the first inner step and zeros after it."""
        return torch.stack([events, *[torch.zeros_like(events)] * (self.steps - 1)], dim=1)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count two per observation: the difference and the move of the reference."""
        return torch.full(x.shape[:2], 2.0 * x.shape[-1], device=x.device)
