"""Adaptive exponential integrate-and-fire in mV: a membrane with an upstroke, and a current that slows its firing down.

    tau dV/dt = -V + sharpness (exp((V - soft)/sharpness) - exp(-soft/sharpness)) - w + gain I(t)
    tau_w dw/dt = coupling V - w;   V >= peak:  emit a spike, V <- 0, w <- w + jump

V is relative to rest, and w is what the adaptation current would do to a resting membrane; both are in mV. The second
exponential takes away what the first one adds at rest. One sub-step solves the leak and the adaptation exactly, with the
upstroke and the other's value as they were at its start; the exponent is bounded, because what lies beyond the peak is reset.
Not included: noise, synaptic currents, refractoriness.

Source: Brette & Gerstner (2005), with its conductances divided by that of the leak.
"""

from spiky_rl.config.options import option
from spiky_rl.neurons.base import Ode, Ops, Params, States, Value, parameter, surrogate_scale

LARGEST_EXPONENT = 5.0


class AdEx(Ode):
    """Adaptive exponential integrate-and-fire neuron."""

    states = ("v", "w")

    class Options(Ode.Options):
        tau: float = parameter(9.4, "membrane time constant", low=1e-3, unit="ms")
        tau_w: float = parameter(144.0, "time constant of the adaptation", low=1e-3, unit="ms")
        soft: float = parameter(20.2, "potential at which the upstroke takes over", low=1e-3, unit="mV")
        sharpness: float = parameter(2.0, "how gradually it does", low=0.1, unit="mV")
        coupling: float = parameter(0.13, "adaptation per potential", low=0.0, unit="1")
        jump: float = parameter(2.7, "rise of the adaptation per spike", low=0.0, unit="mV")
        gain: float = parameter(30.0, "input per unit of the network's current", low=1e-3, unit="mV")
        peak: float = option(40.0, "potential at which a spike is emitted", low=1e-3, unit="mV")
        scale: float = surrogate_scale(20.0, "mV")
        substeps: int = option(4, "parts into which a step is divided", low=1, high=10_000)

    options: Options

    def drive(self, ops: Ops, current: Value, s: States, p: Params) -> Value:
        """What the membrane decays to, in mV."""
        exponent = ops.min((s.v - p.soft) / p.sharpness, LARGEST_EXPONENT)
        return p.gain * current - s.w + p.sharpness * (ops.exp(exponent) - ops.exp(-p.soft / p.sharpness))

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        v = (self.drive(ops, current, s, p) - s.v) / p.tau
        return s.rates(v=v, w=(p.coupling * s.v - s.w) / p.tau_w)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        h = self.dt / self.substeps
        decay, decay_w = ops.exp(-h / p.tau), ops.exp(-h / p.tau_w)
        target = self.drive(ops, current, s, p)
        v = decay * s.v + (1.0 - decay) * target
        return s.replace(v=v, w=decay_w * s.w + (1.0 - decay_w) * p.coupling * s.v)

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - self.options.peak

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v * (1.0 - spike), w=s.w + p.jump * spike)
