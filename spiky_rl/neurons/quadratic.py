"""Quadratic integrate-and-fire: the normal form of a neuron that starts to spike through a saddle-node bifurcation.

    tau dv/dt = v (v - critical) + I(t);   v >= peak:  emit a spike, v <- reset

Rest (0) is stable. Below ``critical`` v returns to rest, above it v runs away to the peak. A constant current above
critical^2/4 makes the neuron fire, at rates from zero on. Solved exactly for a current held constant over the step: with
J = I - critical^2/4, h = dt/tau and m = tan(sqrt(J) h)/sqrt(J) (tanh for J < 0),

    v <- (v (1 - critical m/2) + I m) / (1 + critical m/2 - v m)

This is correct for any dt, while Euler's method overshoots the peak and multiplies the rate. A denominator at or below zero
means that v reaches infinity within the step. Potentials beyond the peak are replaced by a value that rises with the current
and has a bounded gradient; they do not matter, because they are reset.

v is relative to rest and dimensionless; the network's current enters unscaled. A membrane in mV with
tau dV/dt = a (V - V_rest)(V - V_critical) + R I corresponds to v = a (V - V_rest), critical = a (V_critical - V_rest) and the
current a R I. The canonical form tau dx/dt = x^2 + eta has x = v - critical/2 and eta = J; with peak and reset at plus and
minus infinity it is the theta neuron. Not included: adaptation, a synaptic current.

Source: Ermentrout & Kopell (1986); Gerstner et al., Neuronal Dynamics (2014), chapter 5.
"""

# pylint: disable=unused-argument  # every function of a neuron gets the vocabulary, states and parameters

from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter

SERIES = 1e-4
"""|J h^2| below which m is computed by a series; both branches have an error of 1e-13 there."""
LARGEST_ANGLE = 1.5
"""Largest sqrt(J) h; at pi/2 even x = 0 reaches infinity within the step."""
SMALLEST = 1e-3
"""Smallest denominator, with v on the unstable fixed point of a strongly negative current."""


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
        # beyond the peak the denominator may fall through zero: use a linear function that rises with v and current
        excess = above - peak * below
        return s.replace(v=ops.where(excess < 0.0, above / ops.max(below, SMALLEST), peak + excess))

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v / self.options.peak - 1.0

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v + spike * (self.options.reset - s.v))


def _tangent_ratio(ops: Ops, z: Value) -> Value:
    """Return tan(sqrt(z))/sqrt(z) for z > 0 and tanh(sqrt(-z))/sqrt(-z) for z < 0, one smooth function."""
    z = ops.min(z, LARGEST_ANGLE**2)
    up, down = ops.sqrt(ops.max(z, SERIES)), ops.sqrt(ops.max(-z, SERIES))
    series = 1.0 + z * (1.0 / 3.0 + z * (2.0 / 15.0))
    return ops.where(z > SERIES, ops.tan(up) / up, ops.where(z < -SERIES, ops.tanh(down) / down, series))
