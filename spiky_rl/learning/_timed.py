"""A neuron whose spikes have a time within the step: what exact gradients of spike times are taken of.

In every (sub-)step the neuron's own ``integrate``, ``threshold`` and ``reset`` are run, and where the distance g to the
threshold changes its sign from g0 to g1, the spike is located inside the step, at the fraction

    f = -g0 / (g1 - g0)

the states are brought to the threshold, reset, and integrated over the rest of the step. What is sent is the spike's unit of
charge, divided between this step and the next so that its mean time is the spike's: 1 - f now, f in the next. It arrives
in a synaptic current of the receiving neuron, dI/dt = -I/tau_synapse, whose mean over a step drives it.

Nothing in this is discontinuous in a spike's time, and so the gradient of the whole is that of the events, with no
surrogate: the adjoint jumps by what the threshold's slope, the reset and the flow behind it say, and what reaches the layer
below is the change of the adjoint over time. It is exact for this forward pass. As dt -> 0 the pass becomes that of continuous
time, spike times to second order and gradients to first (`spiky_rl.exact.adjoint` is the limit). It does not see spikes come
and go; one that goes at the end of an unrolled time goes continuously.
"""

from __future__ import annotations

import math
from typing import Any

from spiky_rl.learning._wrapped import Wrapped
from spiky_rl.neurons.base import Values


class Timed(Wrapped):
    """See the module's text. States: the neuron's, its synaptic current, and what is still to be sent of its last spike."""

    own = ("tau_synapse", "slope")
    graded = True
    once = False
    """Whether a neuron sends its first spike alone."""

    def __init__(self, of: str, **chosen: Any) -> None:
        super().__init__(of, **chosen)
        self.states = (*self.inner.states, "synapse", "late", *(["spent"] * self.once))  # type: ignore[misc]

    def step(self, ops: Any, current: Any, *states_and_params: Any) -> tuple[Any, Values]:  # noqa: D102
        states, params = self.split(states_and_params)
        synapse, sent, *spent = states_and_params[len(states) : len(self.states)]
        parts = self.inner.substeps
        dt, tau = self.dt / parts, self.chosen["tau_synapse"]
        decay = math.exp(-dt / tau)
        synapse, late = synapse + current, 0.0 * sent
        for part in range(parts):
            drive = (tau / dt * (1.0 - decay)) * synapse
            synapse = decay * synapse
            after = self.inner.integrate(ops, drive, *states, *params)
            before, beyond = (self.inner.distance(ops, *s, *params) for s in (states, after))
            rise = ops.max(beyond - before, self.chosen["slope"] * dt)
            fraction = ops.min(ops.max(-before / rise, 0.0), 1.0)
            crossing = tuple(s + fraction * (a - s) for s, a in zip(states, after, strict=True))
            reset = self.inner.reset(ops, 1.0, *crossing, *params)
            end = self.inner.integrate(ops, drive, *reset, *params)
            states = tuple(
                ops.where(beyond >= 0.0, r + (1.0 - fraction) * (e - r), a)
                for r, e, a in zip(reset, end, after, strict=True)
            )
            place, spike = (part + fraction) / parts, ops.where(beyond >= 0.0, 1.0, 0.0)
            new = spike * (1.0 - spent[0]) if self.once else spike
            spent = [ops.max(s, spike) for s in spent]
            sent, late = sent + new * (1.0 - place), late + new * place
        return sent, (*states, synapse, late, *spent)


class Once(Timed):
    """The same, silent behind its first spike. One state more: whether that has come."""

    once = True
