"""Adaptive leaky integrate-and-fire: a LIF neuron whose threshold rises with each of its spikes.

    tau dV/dt = -V + I(t);   tau_adaptation da/dt = -a;   V >= threshold + adaptation a:  emit a spike, a <- a + 1,
    then V <- V - threshold ("subtract") or V <- 0 ("zero")

Both equations are solved exactly for a current held constant over the step. ``input_gain`` has the meaning and the default of
`lif`. The trace a counts the neuron's own recent spikes: it decays before the comparison with the threshold and rises after it.
A spike adds 1 to a; in Bellec et al. it adds 1 - exp(-dt/tau_adaptation), about dt/tau_adaptation. So multiply their
``adaptation`` (1.8) by dt/tau_adaptation. The 1 carries a gradient even if the reset is detached, so that credit reaches back
as far as tau_adaptation.

V is relative to rest, in units of the threshold's default; the network's currents enter unscaled. Not included: an
adaptation current, a synaptic current, refractoriness.

Source: Bellec et al. (2018), LSNN; Bellec et al. (2020).
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

from typing import Literal

from spiky_rl.config.options import option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter


class Alif(Ode):
    """Adaptive leaky integrate-and-fire neuron."""

    states = ("v", "a")

    class Options(Ode.Options):
        tau: float = parameter(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")
        threshold: float = parameter(1.0, "threshold without adaptation", low=1e-3, unit="1")
        tau_adaptation: float = parameter(
            200.0, "time constant of the adaptation", low=1e-3, unit="ms", transform="decay"
        )
        adaptation: float = parameter(0.1, "rise of the threshold per spike", low=0.0, unit="1")
        reset: Literal["subtract", "zero"] = option(
            "subtract", "reset of the membrane: subtract the threshold, or set to zero"
        )
        detach_reset: bool = DETACH_RESET
        input_gain: Literal["ode", "unit"] = option("unit", "factor of the input: 1 - decay, or 1")

    options: Options

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        # unlike Ode.step, the spike enters the reset undetached, so that the trace keeps its gradient
        s = self.integrate(ops, current, s, p)
        spike = ops.spike(self.distance(ops, s, p))
        return spike, self.reset(ops, spike, s, p)

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        gain = 1.0 if self.options.input_gain == "ode" else 1.0 / (1.0 - ops.exp(-self.dt / p.tau))
        return s.rates(v=(gain * current - s.v) / p.tau, a=-s.a / p.tau_adaptation)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        gain = 1.0 - p.decay if self.options.input_gain == "ode" else 1.0
        return s.replace(v=p.decay * s.v + gain * current, a=p.decay_adaptation * s.a)

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - (p.threshold + p.adaptation * s.a)

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        jump = ops.detach(spike) if self.options.detach_reset else spike
        subtract = self.options.reset == "subtract"
        v = s.v - jump * p.threshold if subtract else s.v * (1.0 - jump)
        return s.replace(v=v, a=s.a + spike)
