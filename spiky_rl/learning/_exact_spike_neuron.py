"""Neurons with spike times inside the step, for exact gradients of spike times.

In every (sub-)step the neuron's own ``integrate``, ``threshold`` and ``reset`` run. If the distance to the threshold changes its
sign, from g0 to g1, the spike is located inside the step, at the fraction

    f = -g0 / (g1 - g0)

The states are set to the threshold, reset, and integrated over the rest of the step. The spike's unit of charge is divided
between this step (1 - f) and the next (f), so that its mean time is the time of the spike. It arrives in a synaptic current of
the receiving neuron, dI/dt = -I/tau_synapse, and the mean of this current over a step drives the neuron.

All of this is continuous in the spike times, so the gradient is that of the events, without a surrogate: the adjoint jumps by an
amount given by the threshold's slope, the reset and the flow after it, and the layer below receives the adjoint's change over
time. The gradient is exact for this forward pass. As dt -> 0 the pass converges to continuous time (`spiky_rl.exact.adjoint` computes
the limit): gradients with first order, spike times with the order of the neuron's ``integrate``, at most the second. The gradient does
not see spikes appear or disappear, except at the end of the unrolled time, where they disappear continuously.
"""

from __future__ import annotations

import math
from typing import override

from spiky_rl.learning._neuron_wrapper import NeuronWrapper
from spiky_rl.neurons.base import Ops, Params, States, Value


class ExactSpikeNeuron(NeuronWrapper):
    """Wrapper of a neuron with exact spike times. States: the neuron's, its synaptic current, and the unsent part of its spike."""

    own_values = ("tau_synapse", "slope")
    more = ("timed_synapse", "timed_late")
    graded = True
    splits_spikes = True
    once = False
    """Whether a neuron sends only its first spike."""

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        named, parts = self.inner.named_states, self.inner.substeps
        states = named(*s[: len(self.inner.states)])
        dt, tau = self.dt / parts, self.own["tau_synapse"]
        decay = math.exp(-dt / tau)
        synapse, sent = s.timed_synapse + current, s.timed_late
        late, has_fired = 0.0 * sent, s.timed_spent if self.once else None
        for part in range(parts):
            drive = (tau / dt * (1.0 - decay)) * synapse
            synapse = decay * synapse
            after = self.inner.integrate(ops, drive, states, p)
            before, beyond = (self.inner.distance(ops, x, p) for x in (states, after))
            rise = ops.max(beyond - before, self.own["slope"] * dt)
            fraction = ops.min(ops.max(-before / rise, 0.0), 1.0)
            crossing = named(*(x + fraction * (a - x) for x, a in zip(states, after, strict=True)))
            reset = self.inner.reset(ops, 1.0, crossing, p)
            end = self.inner.integrate(ops, drive, reset, p)
            # a reset also acts without a spike if it has a state of its own, such as one that ends a refractory time
            silent = self.inner.reset(ops, 0.0, after, p)
            states = named(
                *(
                    ops.where(beyond >= 0.0, r + (1.0 - fraction) * (e - r), x)
                    for r, e, x in zip(reset, end, silent, strict=True)
                )
            )
            place, spike = (part + fraction) / parts, ops.where(beyond >= 0.0, 1.0, 0.0)
            new = spike if has_fired is None else spike * (1.0 - has_fired)
            has_fired = None if has_fired is None else ops.max(has_fired, spike)
            sent, late = sent + new * (1.0 - place), late + new * place
        own = {} if has_fired is None else {"timed_spent": has_fired}
        return sent, s.replace(**states._asdict(), timed_synapse=synapse, timed_late=late, **own)


class SingleSpikeNeuron(ExactSpikeNeuron):
    """Exact spike neuron that is silent after its first spike; a further state stores whether it has fired."""

    once = True
    more = (*ExactSpikeNeuron.more, "timed_spent")
