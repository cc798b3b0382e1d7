"""Delta: send-on-delta; an event each time an observation has moved by a threshold.

    ON where x - ref >= threshold, OFF where x - ref <= -threshold;   ref <- ref + threshold (ON - OFF)

in every inner step, with two channels (ON and OFF) per observation and at most one event in each, so the reference moves by at
most K threshold in a control step. The reference is the receiver's copy of x; while it keeps up, its error is below the
threshold. It starts at 0. A stateful network carries it through the episode, and a constant observation sends nothing. In a
stateless network it starts again in every control step, which makes the code unary: K levels per sign, and no difference beyond
K threshold. With ``start: first`` the reference starts at an episode's first observation, without an event, so that only changes
are sent: a velocity, in events. With a unary code, and if observations differ in scale, agents set
``actor.obs_normalization: true``.

No gradient reaches x. Source: Miskowicz (2006), send-on-delta; Lichtsteiner et al. (2008), the events of a silicon retina.
"""

from __future__ import annotations

from typing import Literal, override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option


class Delta(Encoder):
    """[T, B, O] -> events [T, K, B, 2 O]: all ON channels, then all OFF channels.

    State: the references [B, O] and, with ``start: first``, whether the episode has begun [B, 1].
    """

    binary = True
    topographic = True
    only_changes = True

    class Options(Settings):
        threshold: float = option(0.1, "change that causes an event, in units of the observation", low=1e-6)
        start: Literal["zero", "first"] = option(
            "zero", "initial reference of a stateful network: 0, or the episode's first observation"
        )

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps, self.threshold = 2 * inputs, steps, options.threshold
        self.state_sizes = (inputs,) if options.start == "zero" else (inputs, 1)
        self.register_buffer("step", torch.arange(1, steps + 1).unsqueeze(-1).unsqueeze(-1))  # [K, 1, 1]
        self.step: Tensor

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._make_events(self._count_events(x.detach()))

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
            counts.append(self._count_events(x[t] - reference))
            reference = reference + self.threshold * counts[-1]
        return self._make_events(torch.stack(counts)), (reference,) if begun is None else (reference, begun)

    def _count_events(self, change: Tensor) -> Tensor:
        """Return the number of events of a change in a control step, negative for OFF; x is constant over its inner steps."""
        return torch.trunc(change / self.threshold).clamp(-self.steps, self.steps)

    def _make_events(self, count: Tensor) -> Tensor:
        """Turn counts [T, B, O] into events, one per inner step from the first on."""
        signed = torch.cat([count, -count], dim=-1)
        return (signed.unsqueeze(1) >= self.step).to(count.dtype)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count two per observation and inner step: the difference and the move of the reference."""
        return torch.full(x.shape[:2], 2.0 * self.steps * x.shape[-1], device=x.device)
