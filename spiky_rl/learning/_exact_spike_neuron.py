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
from typing import override

from spiky_rl.learning._neuron_wrapper import NeuronWrapper
from spiky_rl.neurons.base import Ops, Params, States, Value


class ExactSpikeNeuron(NeuronWrapper):
    """Any neuron with exactly timed spikes. States: the neuron's, its synaptic current, and what is still to be sent of its last spike."""

    own_values = ("tau_synapse", "slope")
    more = ("timed_synapse", "timed_late")
    graded = True
    once = False
    """Whether a neuron sends its first spike alone."""

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        named, parts = self.inner.named_states, self.inner.substeps
        states = named(*s[: len(self.inner.states)])
        dt, tau = self.dt / parts, self.chosen["tau_synapse"]
        decay = math.exp(-dt / tau)
        synapse, sent = s.timed_synapse + current, s.timed_late
        late, has_fired = 0.0 * sent, s.timed_spent if self.once else None
        for part in range(parts):
            drive = (tau / dt * (1.0 - decay)) * synapse
            synapse = decay * synapse
            after = self.inner.integrate(ops, drive, states, p)
            before, beyond = (self.inner.distance(ops, x, p) for x in (states, after))
            rise = ops.max(beyond - before, self.chosen["slope"] * dt)
            fraction = ops.min(ops.max(-before / rise, 0.0), 1.0)
            crossing = named(*(x + fraction * (a - x) for x, a in zip(states, after, strict=True)))
            reset = self.inner.reset(ops, 1.0, crossing, p)
            end = self.inner.integrate(ops, drive, reset, p)
            states = named(
                *(
                    ops.where(beyond >= 0.0, r + (1.0 - fraction) * (e - r), a)
                    for r, e, a in zip(reset, end, after, strict=True)
                )
            )
            place, spike = (part + fraction) / parts, ops.where(beyond >= 0.0, 1.0, 0.0)
            new = spike if has_fired is None else spike * (1.0 - has_fired)
            has_fired = None if has_fired is None else ops.max(has_fired, spike)
            sent, late = sent + new * (1.0 - place), late + new * place
        own = {} if has_fired is None else {"timed_spent": has_fired}
        return sent, s.replace(**states._asdict(), timed_synapse=synapse, timed_late=late, **own)


class SingleSpikeNeuron(ExactSpikeNeuron):
    """The same, silent behind its first spike. One state more: whether that has come."""

    once = True
    more = (*ExactSpikeNeuron.more, "timed_spent")
