"""Sigma-delta: graded events; the change of an observation is sent once it reaches a threshold.

    d = x - ref;   event = d where |d| >= threshold, else 0;   ref <- ref + event

in the first inner step of a control step; in the other inner steps x has not changed, and nothing is sent. ``ref`` is the
receiver's copy of x; its error is below the threshold, however large x is. It starts at 0, so an episode's first step sends
whole values. A stateful network carries it through the episode, and the receiver must sum, as sigma-delta neurons do. A
stateless network starts from 0 in every control step and sends the observation itself, except values below the threshold.

Events are graded, so synaptic operations are multiplications. The gradient passes through the sent events to x; the threshold
has no gradient.

Source: O'Connor & Welling (2016); Orchard et al. (2021), lava-dl's sigma_delta.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter


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
        self.sender = Sender.from_options(threshold=options.threshold)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._put_in_first_step(self._make_event(x))

    @override
    def encode_stateful(
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if state is None:
            return self(x), ()
        if x.shape[0] == 1:  # a control step of a rollout or an exported policy: no loop over time
            reference = state[0] if keep is None else state[0] * keep[0].unsqueeze(-1)
            event = self._make_event(x[0] - reference)
            return self._put_in_first_step(event.unsqueeze(0)), (reference + event,)
        events, (reference,) = dispatch.unroll(
            self.backend, self.sender, SPIKELESS, x.unsqueeze(1), 1, state, (self.threshold,), keep
        )
        return self._put_in_first_step(events.squeeze(1)), (reference,)

    def _make_event(self, change: Tensor) -> Tensor:
        return torch.where(change.abs() >= self.threshold, change, torch.zeros_like(change))

    def _put_in_first_step(self, events: Tensor) -> Tensor:
        """Return a signal [T, K, B, O] with ``events`` [T, B, O] in the first inner step and zeros after it."""
        return torch.stack([events, *[torch.zeros_like(events)] * (self.steps - 1)], dim=1)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count two per observation and control step: the difference, and the update of the reference."""
        return torch.full(x.shape[:2], 2.0 * x.shape[-1], device=x.device)


class Sender(Neuron):
    """One observation's channel: its input is the observation, its output the event, its state the receiver's copy."""

    states = ("reference",)

    class Options(Neuron.Options):
        threshold: float = parameter(0.1, "smallest change that is sent", low=0.0, unit="1")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        change = current - s.reference
        event = ops.where(ops.abs(change) >= p.threshold, change, 0.0)
        return event, s.replace(reference=s.reference + event)
