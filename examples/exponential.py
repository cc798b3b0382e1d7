"""Exponential integrate-and-fire: a leaky membrane whose upstroke takes over beyond a soft threshold.

    tau dV/dt = -V + sharpness (exp((V - soft)/sharpness) - exp(-soft/sharpness)) + gain I;   V >= peak:  spike, V <- 0

V is relative to rest: the second exponential takes away what the first one adds at V = 0, so that rest stays where it is.
One step is exponential Euler: the leak exactly, the upstroke as at the step's start. The exponent is bounded, because
what lies far beyond the peak is reset anyway. Potentials are in units of the soft threshold's default.

Source: Fourcaud-Trocme et al. (2003).
"""

from spiky_rl.config.registry import Option
from spiky_rl.neurons.base import DETACH_RESET, DT, LEARN, Ode, Param

LARGEST_EXPONENT = 5.0


class Exponential(Ode):
    """See the module's text for the equations."""

    states = ("v",)
    params = {
        "tau": Param(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay"),
        "soft": Param(1.0, "potential at which the upstroke takes over", low=1e-3, unit="1"),
        "sharpness": Param(0.2, "how gradually it does", low=1e-2, unit="1"),
        "gain": Param(2.5, "input per unit of the network's current", low=1e-3, unit="1"),
    }
    options = {
        **params,
        "peak": Option(1.5, "potential at which a spike is emitted", low=1e-3),
        "detach_reset": DETACH_RESET,
        "dt": DT,
        "learn": LEARN,
    }

    def drive(self, ops, current, s, p):
        """What the membrane decays to."""
        exponent = ops.min((s.v - p.soft) / p.sharpness, LARGEST_EXPONENT)
        return p.gain * current + p.sharpness * (ops.exp(exponent) - ops.exp(-p.soft / p.sharpness))

    def flow(self, ops, current, s, p):
        return s.rates(v=(self.drive(ops, current, s, p) - s.v) / p.tau)

    def integrate(self, ops, current, s, p):
        return s.replace(v=p.decay * s.v + (1.0 - p.decay) * self.drive(ops, current, s, p))

    def threshold(self, ops, s, p):
        return s.v - self.chosen["peak"]

    def reset(self, ops, spike, s, p):
        return s.replace(v=s.v * (1.0 - spike))
