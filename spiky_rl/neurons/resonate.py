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
(exp(dt / tau_refractory) - 1). With it damping + q may be at most 2 c / dt, for learned values too, so no input makes u diverge.

Rates are per second, as in the source, while dt and tau_refractory are in ms; u and v are in units of the default
threshold. ``gain`` scales the network's current: it moves u by gain dt / 1000 per step. q decays before the comparison with the
threshold. In the source q decays after it, which equals this neuron with refractory = exp(dt / tau_refractory); the source's
currents correspond to gain 1. Not included: a reset of u or v, spikes on v.

Source: Higuchi et al. (2024), Balanced Resonate-and-Fire Neurons; Izhikevich (2001).
"""

# pylint: disable=unused-argument  # every function of a neuron gets the vocabulary, states and parameters

import math
from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import Ode, Ops, Params, States, Value, inner_step, parameter

SECOND_MS = 1000.0
LEARNED_SHARE = 0.99
"""Upper bound of a learned omega, as a share of the bound 1 / dt."""
BOUNDED = ("omega", "damping", "refractory", "tau_refractory")
"""Parameters on which it depends whether u diverges."""
MIN_ACCUMULATION = 1e-30
"""Lower bound of a number by which others are divided."""


def _compute_max_damping(omega: float, dt: float) -> float:
    """Return the largest damping + q, in 1/s, at which the oscillation does not grow; ``dt`` is in ms."""
    h = dt / SECOND_MS
    return 2.0 * math.sqrt(1.0 - (h * omega) ** 2) / h


def _compute_accumulation(tau_refractory: float, dt: float) -> float:
    """Return the largest q of a neuron that rises by 1 per spike, as it enters a step; both arguments are in ms."""
    decay = math.exp(-dt / tau_refractory)
    return max(decay / (1.0 - decay), MIN_ACCUMULATION)


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
            max_damping = _compute_max_damping(self.omega, self.dt)
            accumulation = _compute_accumulation(self.tau_refractory, self.dt)
            largest_q = accumulation * self.refractory
            if self.damping + largest_q > max_damping:
                if self.damping >= largest_q:
                    name, bound = "damping", max_damping - largest_q
                else:
                    name, bound = "refractory", (max_damping - self.damping) / accumulation
                others = ", ".join(
                    f"{key}: {getattr(self, key):g}" for key in (*BOUNDED, "dt") if key != name
                )
                raise RegistryError(
                    f"{name}: {getattr(self, name)!r} is out of range; with {others} it must be at most {max(bound, 0.0):g}, or u diverges"
                )
            return self

    options: Options

    def get_parameter_range(self, name: str) -> tuple[float | None, float | None]:
        low, high = super().get_parameter_range(name)
        if name in self.learn and name in BOUNDED:
            return low, min(high or math.inf, self._compute_upper_bounds()[name])
        return low, high

    def _compute_upper_bounds(self) -> dict[str, float]:
        """Return the upper bounds of learned parameters, by name; u does not diverge even if all of them are at their bounds."""
        options, dt = self.options, self.dt
        tau, refractory = options.tau_refractory, options.refractory
        accumulation = _compute_accumulation(tau, dt)
        largest_q = accumulation * refractory
        total, omega = options.damping + largest_q, options.omega
        if "omega" in self.learn:
            # where `_compute_max_damping` is the total
            share = math.sqrt(1.0 - (0.5 * total * dt / SECOND_MS) ** 2)
            omega = min(LEARNED_SHARE, share) * SECOND_MS / dt
        # the other learned parameters get equal shares of the damping that is left
        others = [name for name in BOUNDED if name in self.learn and name != "omega"]
        spare = max(_compute_max_damping(omega, dt) - total, 0.0) / max(len(others), 1)
        if "tau_refractory" in others and refractory > 0.0:
            largest_q += spare
            accumulation = max(largest_q / refractory, MIN_ACCUMULATION)
            # the inverse of `_compute_accumulation`
            tau = dt / math.log1p(1.0 / accumulation)
        if "refractory" in others:
            refractory = (largest_q + spare) / accumulation
        return {
            "omega": omega,
            "damping": options.damping + spare,
            "refractory": refractory,
            "tau_refractory": tau,
        }

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
