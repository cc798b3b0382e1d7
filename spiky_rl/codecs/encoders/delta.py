"""Delta: send-on-delta; an event each time an observation has moved by a threshold.

    ON where x - ref >= threshold, OFF where x - ref <= -threshold;   ref <- ref + threshold (ON - OFF)

in every inner step, with two channels (ON and OFF) per observation and at most one event in each, so the reference moves by at
most K threshold in a control step. The reference is the receiver's copy of x; while it keeps up, its error is below the
threshold. It starts at 0. A stateful network carries it through the episode, so a constant observation sends nothing. In a
stateless network the reference starts at 0 in every control step, so the number of events encodes the observation itself, in
unary: up to K events per sign, and the same code for all observations beyond K threshold. With ``start: first`` the reference
starts at an episode's first observation, without an event, so events encode changes only, like a velocity. Set
``actor.obs_normalization: true`` in the agent if the network is stateless or if observations differ in scale.

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
        self.register_buffer("step", torch.arange(1, steps + 1).view(-1, 1, 1))  # [K, 1, 1]
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
        for t in range(x.shape[0]):
            if keep is not None:
                state = tuple(part * keep[t].unsqueeze(-1) for part in state)
            reference, *has_begun = state
            if has_begun:
                reference = torch.where(has_begun[0] > 0, reference, x[t])
            count = self._count_events(x[t] - reference)
            counts.append(count)
            state = (reference + self.threshold * count, *map(torch.ones_like, has_begun))
        return self._make_events(torch.stack(counts)), state

    def _count_events(self, change: Tensor) -> Tensor:
        """Return the number of events in a control step for a ``change`` of x since the reference; negative for OFF events."""
        return torch.trunc(change / self.threshold).clamp(-self.steps, self.steps)

    def _make_events(self, count: Tensor) -> Tensor:
        """Turn counts [T, B, O] into events [T, K, B, 2 O]: one in each of the first ``count`` inner steps."""
        signed = torch.cat([count, -count], dim=-1)
        return (signed.unsqueeze(1) >= self.step).to(count.dtype)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count two operations per observation and inner step: the difference, and the update of the reference."""
        return torch.full(x.shape[:2], 2.0 * self.steps * x.shape[-1], device=x.device)
