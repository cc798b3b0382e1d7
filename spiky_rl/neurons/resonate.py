"""Balanced resonate-and-fire: a damped oscillator that spikes at its crest, stable at every frequency.

    du/dt = b u - omega v + gain I(t);   dv/dt = omega u + b v;   dq/dt = -q / tau_refractory;   b = -damping - q
    u >= threshold + q:  emit a spike, q <- q + refractory

The neuron responds to input near its own frequency and ignores other input. There is no reset: the refractory variable q
raises threshold and damping, and u and v continue to oscillate. A step is one of forward Euler, which by itself makes an
oscillation grow. Adding p = (-1 + c) / dt with c = sqrt(1 - (dt omega)^2) to b puts an undamped oscillation exactly on the boundary
of divergence, |1 + dt (p + i omega)| = 1. This needs dt omega < 1. The oscillation is then faster than omega: it turns by the angle
of 1 + dt (p + b + i omega) per step.

Damping moves that factor to c - dt (damping + q) + i dt omega. It is inside the unit circle up to damping + q = 2 c / dt; beyond,
a step jumps over 0 so far that the oscillation grows. A neuron that spikes in every step has the largest q, refractory /
(exp(dt / tau_refractory) - 1). With it damping + q may be at most 2 c / dt, so no input makes u diverge; values that learning
changes later are not checked for that.

Rates are per second, as in the source, while dt and tau_refractory are in ms; u and v are in units of the default
threshold. ``gain`` scales the network's current: it moves u by gain dt / 1000 per step. q decays before the comparison with the
threshold. In the source q decays after it, which equals this neuron with refractory = exp(dt / tau_refractory); the source's
currents correspond to gain 1. Not included: a reset of u or v, spikes on v.

Source: Higuchi et al. (2024), Balanced Resonate-and-Fire Neurons; Izhikevich (2001).
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

import math
from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import Ode, Ops, Params, States, Value, inner_step, parameter

SECOND_MS = 1000.0
LEARNED_SHARE = 0.99
"""Upper bound of a learned omega, as a share of the bound 1 / dt."""


class Resonate(Ode):
    """Balanced resonate-and-fire neuron."""

    states = ("u", "v", "q")

    class Options(Ode.Options):
        omega: float = parameter(
            40.0, "angular frequency; omega dt must stay below 1", low=1e-3, unit="rad/s"
        )
        damping: float = parameter(1.0, "damping beyond the boundary of divergence", low=0.0, unit="1/s")
        threshold: float = parameter(1.0, "u at which a neuron spikes if q is 0", low=1e-3, unit="1")
        tau_refractory: float = parameter(
            95.0, "time constant of the refractory variable", low=1e-3, unit="ms", transform="decay"
        )
        refractory: float = parameter(1.0, "rise of threshold and damping per spike", low=0.0, unit="1")
        gain: float = parameter(100.0, "d u/dt per unit of the network's current", low=1e-3, unit="1/s")
        detach_reset: bool = option(False, "whether gradients stop at the rise of the refractory variable")
        dt: float = inner_step(10.0)

        @model_validator(mode="after")
        def _check_convergence(self) -> Self:
            # a learned value keeps a distance from the bound, at which its derivative is infinite
            highest = (LEARNED_SHARE if "omega" in self.learn else 1.0) * SECOND_MS / self.dt
            if self.omega >= highest:
                raise RegistryError(
                    f"omega: {self.omega!r} is out of range; with a dt of {self.dt} ms it must be below {highest:g}"
                )
            h = self.dt / SECOND_MS
            bound = 2.0 * math.sqrt(1.0 - (h * self.omega) ** 2) / h
            decay = math.exp(-self.dt / self.tau_refractory)
            largest_q = self.refractory * decay / (1.0 - decay)
            if self.damping + largest_q > bound:
                name, highest = "damping", bound - largest_q
                if self.damping < largest_q:
                    name, highest = "refractory", (bound - self.damping) * (1.0 - decay) / decay
                keys = ("omega", "damping", "refractory", "tau_refractory", "dt")
                others = ", ".join(f"{key}: {getattr(self, key):g}" for key in keys if key != name)
                raise RegistryError(
                    f"{name}: {getattr(self, name)!r} is out of range; with {others} it must be at most {max(highest, 0.0):g}, or u diverges"
                )
            return self

    options: Options

    def get_parameter_range(self, name: str) -> tuple[float, float]:
        low, high = super().get_parameter_range(name)
        return (low, LEARNED_SHARE * SECOND_MS / self.dt) if name == "omega" else (low, high)

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        b = -p.damping - s.q
        to_u, to_v = b * s.u - p.omega * s.v + p.gain * current, p.omega * s.u + b * s.v
        return s.rates(u=to_u / SECOND_MS, v=to_v / SECOND_MS, q=-s.q / p.tau_refractory)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        dt = self.dt / SECOND_MS
        q = p.decay_refractory * s.q
        boundary = (ops.sqrt(1.0 - (dt * p.omega) ** 2) - 1.0) / dt
        b = boundary - p.damping - q
        u = s.u + dt * (b * s.u - p.omega * s.v + p.gain * current)
        return s.replace(u=u, v=s.v + dt * (p.omega * s.u + b * s.v), q=q)

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.u - p.threshold - s.q

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(q=s.q + spike * p.refractory)
