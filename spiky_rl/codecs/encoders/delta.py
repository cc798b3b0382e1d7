"""Delta: send-on-delta; an event wherever an observation has moved by a threshold since the last one.

    ON where x - ref >= threshold, OFF where x - ref <= -threshold;   ref <- ref + threshold (ON - OFF)

in every inner step, two channels per observation, at most one event in each: K threshold is the farthest that the reference
moves in a control step. It is what the receiver knows of x, and where it keeps up it is never wrong by the threshold or more. It
starts at 0. In a stateful network it is carried through the episode, and an observation that rests costs nothing; in a
stateless one it starts anew in every control step, which makes the code unary: K levels per sign, and beyond K threshold no
difference. Then, and wherever observations differ in scale, agents set ``actor.obs_normalization: true``.

No gradient reaches x. Source: Miskowicz (2006), send-on-delta; Lichtsteiner et al. (2008), the events of a silicon retina.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.registry import Option


class Delta(Encoder):
    """[T, B, O] -> events [T, K, B, 2 O], all ON channels, then all OFF ones; state: the references [B, O]."""

    binary = True
    topographic = True
    options = {
        "threshold": Option(0.1, "change that makes an event, in units of the observation", low=1e-6),
    }

    def __init__(self, threshold: float, inputs: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps, self.threshold = 2 * inputs, steps, threshold
        self.state_sizes = (inputs,)
        self.register_buffer("step", torch.arange(1, steps + 1).unsqueeze(-1).unsqueeze(-1))  # [K, 1, 1]
        self.step: Tensor

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._events(self._count(x.detach()))

    def encode(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: D102
        if state is None:
            return self(x), ()
        x, reference, counts = x.detach(), state[0], []
        for t in range(x.shape[0]):
            if keep is not None:
                reference = reference * keep[t].unsqueeze(-1)
            counts.append(self._count(x[t] - reference))
            reference = reference + self.threshold * counts[-1]
        return self._events(torch.stack(counts)), (reference,)

    def _count(self, change: Tensor) -> Tensor:
        """Events that a change causes within a control step, negative for OFF: x is constant over its K inner steps."""
        return torch.trunc(change / self.threshold).clamp(-self.steps, self.steps)

    def _events(self, count: Tensor) -> Tensor:
        """Counts [T, B, O] -> events, one per inner step from the first on."""
        signed = torch.cat([count, -count], dim=-1)
        return (signed.unsqueeze(1) >= self.step).to(count.dtype)

    def operations(self, x: Tensor) -> Tensor:
        """Two per observation and inner step: the difference and the reference's move."""
        return torch.full(x.shape[:2], 2.0 * self.steps * x.shape[-1], device=x.device)
