"""Delta: send-on-delta; an event wherever an observation has moved by a threshold since the last one.

    ON where x - ref >= threshold, OFF where x - ref <= -threshold;   ref <- ref + threshold (ON - OFF)

in every inner step, two channels per observation, at most one event in each: K threshold is the farthest that the reference
moves in a control step. It is what the receiver knows of x, and where it keeps up it is never wrong by the threshold or more. It
starts at 0. In a stateful network it is carried through the episode, and an observation that rests costs nothing; in a
stateless one it starts anew in every control step, which makes the code unary: K levels per sign, and beyond K threshold no
difference. With ``start: first`` the reference takes over an episode's first observation without an event, so that only changes
are sent, from the first on: a velocity, in events. Where a code is unary, and wherever observations differ in scale, agents
set ``actor.obs_normalization: true``.

No gradient reaches x. Source: Miskowicz (2006), send-on-delta; Lichtsteiner et al. (2008), the events of a silicon retina.
"""

from __future__ import annotations

from typing import Literal, override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option


class Delta(Encoder):
    """[T, B, O] -> events [T, K, B, 2 O], all ON channels, then all OFF ones.

    State: the references [B, O] and, with ``start: first``, whether the episode has begun [B, 1].
    """

    binary = True
    topographic = True

    class Options(Settings):
        threshold: float = option(0.1, "change that makes an event, in units of the observation", low=1e-6)
        start: Literal["zero", "first"] = option(
            "zero", "where a carried reference starts: at 0, or at an episode's first observation"
        )

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps, self.threshold = 2 * inputs, steps, options.threshold
        self.state_sizes = (inputs,) if options.start == "zero" else (inputs, 1)
        self.register_buffer("step", torch.arange(1, steps + 1).unsqueeze(-1).unsqueeze(-1))  # [K, 1, 1]
        self.step: Tensor

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._events(self._count(x.detach()))

    @override
    def encode_stateful(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if state is None:
            return self(x), ()
        x, counts = x.detach(), []
        reference, begun = state[0], state[1] if len(state) > 1 else None
        for t in range(x.shape[0]):
            if keep is not None:
                here = keep[t].unsqueeze(-1)
                reference, begun = reference * here, None if begun is None else begun * here
            if begun is not None:
                reference = torch.where(begun > 0, reference, x[t])
                begun = torch.ones_like(begun)
            counts.append(self._count(x[t] - reference))
            reference = reference + self.threshold * counts[-1]
        return self._events(torch.stack(counts)), (reference,) if begun is None else (reference, begun)

    def _count(self, change: Tensor) -> Tensor:
        """Events that a change causes within a control step, negative for OFF: x is constant over its K inner steps."""
        return torch.trunc(change / self.threshold).clamp(-self.steps, self.steps)

    def _events(self, count: Tensor) -> Tensor:
        """Counts [T, B, O] -> events, one per inner step from the first on."""
        signed = torch.cat([count, -count], dim=-1)
        return (signed.unsqueeze(1) >= self.step).to(count.dtype)

    def count_operations(self, x: Tensor) -> Tensor:
        """Two per observation of ``x`` and inner step: the difference and the reference's move."""
        return torch.full(x.shape[:2], 2.0 * self.steps * x.shape[-1], device=x.device)
