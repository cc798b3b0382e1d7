"""Exponential integrate-and-fire: a leaky membrane whose upstroke takes over beyond a soft threshold.

    tau dV/dt = -V + sharpness (exp((V - soft)/sharpness) - exp(-soft/sharpness)) + gain I;   V >= peak:  spike, V <- 0

V is relative to rest: the second exponential takes away what the first one adds at V = 0, so that rest stays where it is.
One step is exponential Euler: the leak exactly, the upstroke as at the step's start. The exponent is bounded, because
what lies far beyond the peak is reset anyway. Potentials are in units of the soft threshold's default.

Source: Fourcaud-Trocme et al. (2003).
"""

from spiky_rl.config.options import option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter

LARGEST_EXPONENT = 5.0


class Exponential(Ode):
    """Exponential integrate-and-fire neuron."""

    states = ("v",)

    class Options(Ode.Options):
        tau: float = parameter(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")
        soft: float = parameter(1.0, "potential at which the upstroke takes over", low=1e-3, unit="1")
        sharpness: float = parameter(0.2, "how gradually it does", low=0.01, unit="1")
        gain: float = parameter(2.5, "input per unit of the network's current", low=1e-3, unit="1")
        peak: float = option(1.5, "potential at which a spike is emitted", low=1e-3)
        detach_reset: bool = DETACH_RESET

    options: Options

    def drive(self, ops: Ops, current: Value, s: States, p: Params) -> Value:
        """What the membrane decays to."""
        exponent = ops.min((s.v - p.soft) / p.sharpness, LARGEST_EXPONENT)
        return p.gain * current + p.sharpness * (ops.exp(exponent) - ops.exp(-p.soft / p.sharpness))

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        return s.rates(v=(self.drive(ops, current, s, p) - s.v) / p.tau)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        return s.replace(v=p.decay * s.v + (1.0 - p.decay) * self.drive(ops, current, s, p))

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - self.options.peak

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v * (1.0 - spike))
