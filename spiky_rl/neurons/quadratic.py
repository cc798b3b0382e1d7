"""Quadratic integrate-and-fire: the normal form of a neuron that begins to spike through a saddle-node.

    tau dv/dt = v (v - critical) + I(t);   v >= peak:  emit a spike, v <- reset

Rest (0) is stable and ``critical`` is where the upstroke begins of itself: below it v returns, above it runs away. A
constant current fires the neuron if it exceeds critical^2/4, at rates that begin at zero. Solved exactly for a current held
constant over the step: with J = I - critical^2/4, h = dt/tau and m = tan(sqrt(J) h)/sqrt(J) (tanh for J < 0),

    v <- (v (1 - critical m/2) + I m) / (1 + critical m/2 - v m)

which is right for any dt, while Euler's method overshoots the peak and multiplies the rate. A denominator at or below
zero is a run to infinity within the step. Potentials beyond the peak do not matter, because they are reset; what stands
for them rises with the current and has a bounded gradient.

v is relative to rest and without a unit, and the network's current enters as it is. A membrane in mV that obeys
tau dV/dt = a (V - V_rest)(V - V_critical) + R I is v = a (V - V_rest), with critical = a (V_critical - V_rest) and current
a R I. The canonical form tau dx/dt = x^2 + eta is x = v - critical/2, eta = J; peak and reset at plus and minus infinity
make it the theta neuron. Not included: adaptation, and a synaptic current.

Source: Ermentrout & Kopell (1986); Gerstner et al., Neuronal Dynamics (2014), chapter 5.
"""

# pylint: disable=unused-argument  # every function of a neuron gets the vocabulary, states and parameters

from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter

SERIES = 1e-4
"""|J h^2| below which m is a series: both branches are right to 1e-13 there."""
LARGEST_ANGLE = 1.5
"""Largest sqrt(J) h; at pi/2 even x = 0 runs to infinity within the step."""
SMALLEST = 1e-3
"""Smallest denominator: v on the unstable fixed point of a strongly negative current."""


class Quadratic(Ode):
    """Quadratic integrate-and-fire neuron."""

    states = ("v",)

    class Options(Ode.Options):
        tau: float = parameter(1.0, "membrane time constant", low=1e-3, unit="ms")
        critical: float = parameter(
            0.5, "potential above which the neuron runs to its peak", low=1e-3, unit="1"
        )
        peak: float = option(3.0, "potential at which a spike is emitted; above critical", low=1e-3)
        reset: float = option(0.0, "potential after a spike; below peak")
        detach_reset: bool = DETACH_RESET

        @model_validator(mode="after")
        def _check_critical_below_peak(self) -> Self:
            for name, value in (("critical", self.critical), ("reset", self.reset)):
                if value >= self.peak:
                    raise RegistryError(
                        f"{name}: {value!r} is out of range; it must be below the peak, {self.peak!r}"
                    )
            return self

    options: Options

    def get_parameter_range(self, name: str) -> tuple[float | None, float | None]:
        low, high = super().get_parameter_range(name)
        return (low, self.options.peak) if name == "critical" else (low, high)

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        return s.rates(v=(s.v * (s.v - p.critical) + current) / p.tau)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        h, half, peak = self.dt / p.tau, 0.5 * p.critical, self.options.peak
        m = h * _tangent_ratio(ops, (current - half**2) * h**2)
        above, below = s.v * (1.0 - half * m) + current * m, 1.0 + half * m - s.v * m
        # beyond the peak, where below falls through zero: linear, and rising with v and current
        excess = above - peak * below
        return s.replace(v=ops.where(excess < 0.0, above / ops.max(below, SMALLEST), peak + excess))

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v / self.options.peak - 1.0

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v + spike * (self.options.reset - s.v))


def _tangent_ratio(ops: Ops, z: Value) -> Value:
    """tan(sqrt(z))/sqrt(z) for z > 0, tanh(sqrt(-z))/sqrt(-z) for z < 0: one smooth function."""
    z = ops.min(z, LARGEST_ANGLE**2)
    up, down = ops.sqrt(ops.max(z, SERIES)), ops.sqrt(ops.max(-z, SERIES))
    series = 1.0 + z * (1.0 / 3.0 + z * (2.0 / 15.0))
    return ops.where(z > SERIES, ops.tan(up) / up, ops.where(z < -SERIES, ops.tanh(down) / down, series))
