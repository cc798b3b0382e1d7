"""Quadratic integrate-and-fire: the normal form of a neuron that starts to spike through a saddle-node bifurcation.

    tau dv/dt = v (v - critical) + I(t);   v >= peak:  emit a spike, v <- reset

Rest (0) is stable. Below ``critical`` v returns to rest, above it v runs away to the peak. A constant current above
critical^2/4 makes the neuron fire, at rates from zero on. The step is the exact solution for a current that is constant over
the step. With J = I - critical^2/4, h = dt/tau and m = tan(sqrt(J) h)/sqrt(J), or m = tanh(sqrt(-J) h)/sqrt(-J) for J < 0, it is

    v <- (v (1 - critical m/2) + I m) / (1 + critical m/2 - v m)

for any dt, while Euler's method overshoots the peak and makes the firing rate several times too high. If the denominator is zero
or negative, v reaches infinity within the step. A potential beyond the peak is reset in the same step, so its exact value does
not matter; it is replaced by a value that rises with the current and has a bounded gradient.

v is relative to rest and dimensionless; the network's current enters unscaled. A membrane in mV with
tau dV/dt = a (V - V_rest)(V - V_critical) + R I corresponds to v = a (V - V_rest), critical = a (V_critical - V_rest) and the
current a R I. The canonical form tau dx/dt = x^2 + eta has x = v - critical/2 and eta = J; with peak and reset at plus and
minus infinity it is the theta neuron. Not included: adaptation, a synaptic current.

Source: Ermentrout & Kopell (1986); Gerstner et al., Neuronal Dynamics (2014), chapter 5.
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter

SERIES_BOUND = 1e-4
"""|J h^2| below which m is computed by a series; there the series and the formula both have an error of 1e-13."""
MAX_ANGLE = 1.5
"""Upper bound of sqrt(J) h; at pi/2 even v = critical/2 would reach infinity within the step."""
MIN_DENOMINATOR = 1e-3
"""Lower bound of the denominator, which comes near 0 if v is on the unstable fixed point of a strongly negative current."""


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

    def get_parameter_range(self, name: str) -> tuple[float, float]:
        low, high = super().get_parameter_range(name)
        return (low, self.options.peak) if name == "critical" else (low, high)

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        return s.rates(v=(s.v * (s.v - p.critical) + current) / p.tau)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        h, half, peak = self.dt / p.tau, 0.5 * p.critical, self.options.peak
        m = h * _compute_tangent_ratio(ops, (current - half**2) * h**2)
        numerator = s.v * (1.0 - half * m) + current * m
        denominator = 1.0 + half * m - s.v * m
        # excess >= 0 beyond the peak, where the denominator may be negative: use a linear function that rises with v and current
        excess = numerator - peak * denominator
        v = ops.where(excess < 0.0, numerator / ops.max(denominator, MIN_DENOMINATOR), peak + excess)
        return s.replace(v=v)

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v / self.options.peak - 1.0

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v + spike * (self.options.reset - s.v))


def _compute_tangent_ratio(ops: Ops, z: Value) -> Value:
    """Return tan(sqrt(z))/sqrt(z) for z > 0 and tanh(sqrt(-z))/sqrt(-z) for z < 0, one smooth function."""
    z = ops.min(z, MAX_ANGLE**2)
    # the bound keeps both roots away from 0 where their branch is not used
    root, negative_root = ops.sqrt(ops.max(z, SERIES_BOUND)), ops.sqrt(ops.max(-z, SERIES_BOUND))
    series = 1.0 + z * (1.0 / 3.0 + z * (2.0 / 15.0))
    return ops.where(
        z > SERIES_BOUND,
        ops.tan(root) / root,
        ops.where(z < -SERIES_BOUND, ops.tanh(negative_root) / negative_root, series),
    )
