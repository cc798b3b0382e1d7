"""Hodgkin and Huxley's squid axon: a membrane with voltage-gated sodium and potassium channels.

    C dV/dt = gain I(t) - sodium m^3 h (V - 50) - potassium n^4 (V + 77) - leak (V + 54.387)
    dx/dt = alpha_x(V) (1 - x) - beta_x(V) x   for the gates x = m, h, n;   V >= threshold from below:  emit a spike

with, in mV and per ms, L(y) = y/(1 - exp(-y)):
    alpha_m = L((V + 40)/10)               beta_m = 4 exp(-(V + 65)/18)
    alpha_h = 0.07 exp(-(V + 65)/20)       beta_h = 1/(1 + exp(-(V + 35)/10))
    alpha_n = 0.1 L((V + 55)/10)           beta_n = 0.125 exp(-(V + 65)/80)

One sub-step moves the gates exactly for a constant potential (Rush & Larsen), then the potential exactly for the new gates. In
this order the method is stable for any step and its error falls with the square of the step: 0.1 ms, ten sub-steps of the
default dt, lengthens intervals by 0.5 %. There is no reset. After a spike the neuron is refractory (it cannot spike) until its
potential has fallen by ``hysteresis`` below the threshold.

The states are relative to the resting values for the given conductances (-65.0 mV, m 0.053, h 0.596, n 0.318), a fixed point
up to rounding; a learned conductance moves the fixed point away from zero. ``gain`` is the current in uA/cm^2 per unit of the
network's current: 2.2 uA/cm^2 from rest gives one spike, 6.3 a train. ``scale`` is the distance in mV that counts as 1 for the
surrogate gradient, which goes to the sub-step with the highest potential. Not included: noise, temperature.

Source: Hodgkin & Huxley (1952), in today's sign; Rush & Larsen (1978).
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

import math
from collections.abc import Sequence

from spiky_rl.config.options import option
from spiky_rl.neurons.base import BELOW_ANY, Ode, Ops, Params, States, Value, parameter, surrogate_scale

CHANNELS = ("sodium", "potassium", "leak")
SERIES_BOUND = 0.1
"""|y| below which y/(1 - exp(-y)) is computed by a series, with an error of 4e-11 in double precision. Above it, the formula itself
has an error of 1e-6 in single precision."""
MIN_RATE_POTENTIAL_MV = -200.0
"""Potential below which the rates are constant, so that no exponential overflows; the channels never pull the potential so low."""


class HodgkinHuxley(Ode):
    """Hodgkin-Huxley neuron with sodium, potassium and leak channels."""

    states = ("v", "m", "h", "n", "refractory")

    class Options(Ode.Options):
        sodium: float = parameter(120.0, "maximal sodium conductance", low=0.0, unit="mS/cm2")
        potassium: float = parameter(36.0, "maximal potassium conductance", low=0.0, unit="mS/cm2")
        leak: float = parameter(0.3, "leak conductance", low=1e-3, unit="mS/cm2")
        gain: float = parameter(20.0, "current per unit of the network's current", low=1e-3, unit="uA/cm2")
        capacitance: float = option(1.0, "membrane capacitance", low=1e-3, unit="uF/cm2")
        sodium_reversal: float = option(50.0, "reversal potential of sodium", unit="mV")
        potassium_reversal: float = option(-77.0, "reversal potential of potassium", unit="mV")
        leak_reversal: float = option(-54.387, "reversal potential of the leak", unit="mV")
        threshold: float = option(0.0, "potential that counts as a spike when crossed from below", unit="mV")
        hysteresis: float = option(
            20.0, "distance below the threshold at which a neuron can spike again", low=0.0, unit="mV"
        )
        scale: float = surrogate_scale(50.0, "mV")
        substeps: int = option(10, "number of sub-steps in a step", low=1, high=10_000)

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.rest, self.gates = self._find_rest()

    def _find_rest(self) -> tuple[float, list[Value]]:
        """Find the potential at which the ionic currents cancel, by bisection; return it and the gates there."""
        low, high = (pick(self.chosen[f"{name}_reversal"] for name in CHANNELS) for pick in (min, max))
        maxima = [self.chosen[name] for name in CHANNELS]
        rest, gates = low, []
        for _ in range(100):
            rest = 0.5 * (low + high)
            gates = [alpha / (alpha + beta) for alpha, beta in _compute_rates(_Numbers(), rest)]
            _, pull = self._compute_membrane(gates, maxima, rest)
            low, high = (rest, high) if pull > 0.0 else (low, rest)
        return rest, gates

    def _compute_membrane(
        self, gates: list[Value], maxima: Sequence[Value], origin: float
    ) -> tuple[Value, Value]:
        """Return (conductance, pull) of C dv/dt = pull - conductance v, without input, with v relative to ``origin``."""
        m, h, n = gates
        open_channels = maxima[0] * m**3 * h, maxima[1] * (n**2) ** 2, maxima[2]
        reversals = (self.chosen[f"{name}_reversal"] - origin for name in CHANNELS)
        return sum(open_channels), sum(g * e for g, e in zip(open_channels, reversals, strict=True))

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        gates = [x + x0 for x, x0 in zip((s.m, s.h, s.n), self.gates, strict=True)]
        rates = _compute_rates(ops, s.v + self.rest)
        conductance, pull = self._compute_membrane(gates, (p.sodium, p.potassium, p.leak), self.rest)
        v = (pull + p.gain * current - conductance * s.v) / self.options.capacitance
        m, h, n = (alpha * (1.0 - x) - beta * x for x, (alpha, beta) in zip(gates, rates, strict=True))
        return s.rates(v=v, m=m, h=h, n=n)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        dt = self.dt / self.substeps
        moved: list[Value] = []
        rates = _compute_rates(ops, s.v + self.rest)
        for x, x0, (alpha, beta) in zip((s.m, s.h, s.n), self.gates, rates, strict=True):
            target = alpha / (alpha + beta) - x0
            moved.append(target + (x - target) * ops.exp(-dt * (alpha + beta)))
        gates = [x + x0 for x, x0 in zip(moved, self.gates, strict=True)]
        conductance, pull = self._compute_membrane(gates, (p.sodium, p.potassium, p.leak), self.rest)
        target = (pull + p.gain * current) / conductance
        decay = ops.exp(-dt / self.options.capacitance * conductance)
        return s.replace(v=target + (s.v - target) * decay, m=moved[0], h=moved[1], n=moved[2])

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - (self.options.threshold - self.rest)

    def distance(self, ops: Ops, s: States, p: Params) -> Value:
        # unlike Ode.distance, a refractory neuron is far below its threshold
        distance = self.threshold(ops, s, p) * (1.0 / self.options.scale)
        return ops.where(s.refractory > 0.5, BELOW_ANY, distance)

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        fallen = self.options.threshold - self.options.hysteresis - self.rest
        return s.replace(refractory=ops.where(s.v < fallen, 0.0, s.refractory + spike))


def _compute_rates(ops: Ops, potential: Value) -> tuple[tuple[Value, Value], ...]:
    """Return the opening and closing rates per ms of the gates m, h and n at a potential in mV.

    Three calls of exp give all six exponentials: the others are powers or multiples.
    """
    v = ops.max(potential, MIN_RATE_POTENTIAL_MV)
    fall_80, fall_18 = ops.exp((v + 65.0) * (-1.0 / 80.0)), ops.exp((v + 65.0) * (-1.0 / 18.0))
    fall_10, fall_20 = ops.exp((v + 65.0) * -0.1), (fall_80**2) ** 2
    return (
        (_compute_linoid(ops, 0.1 * (v + 40.0), math.exp(2.5) * fall_10), 4.0 * fall_18),
        (0.07 * fall_20, 1.0 / (1.0 + math.exp(3.0) * fall_10)),
        (0.1 * _compute_linoid(ops, 0.1 * (v + 55.0), math.e * fall_10), 0.125 * fall_80),
    )


def _compute_linoid(ops: Ops, y: Value, fall: Value) -> Value:
    """Return y / (1 - fall) with fall = exp(-y), by a series around 0."""
    near, z = ops.abs(y) < SERIES_BOUND, y**2
    series = 1.0 + 0.5 * y + z * (1 / 12 + z * (-1 / 720))
    return ops.where(near, series, y / ops.where(near, 1.0, 1.0 - fall))


class _Numbers(Ops):
    """Functions of the rates on plain numbers."""

    exp, abs, max = staticmethod(math.exp), staticmethod(abs), staticmethod(max)  # type: ignore[assignment]

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        return x if condition else y
