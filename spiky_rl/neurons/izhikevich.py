"""Izhikevich's simple model: a quadratic membrane with a recovery variable, which shows most firing patterns.

    dV/dt = 0.04 V^2 + 5 V + 140 - U + gain I(t);   dU/dt = a (b V - U);   V >= peak:  emit a spike, V <- c, U <- U + d

V and U in mV, time in ms. One sub-step consists of two half steps of Euler's method for V and one whole step for U with the
new V, as in the source. Steps of 1 ms show the patterns but not the rates. With 0.25 ms, four sub-steps of the default dt, the
rates of regular spiking and bursting are within a few per cent, and fast spiking is 20 % too slow.

The states are relative to the stable fixed point, V_rest = -(5 - b + sqrt((5 - b)^2 - 22.4))/0.08 (-70 mV for b = 0.2) and
b V_rest. The membrane's equation is then dv/dt = 0.04 v^2 + (b - sqrt((5 - b)^2 - 22.4)) v - u + gain I. ``gain`` is the
source's current per unit of the network's current: regular spiking needs about 4 for a train of spikes, and 10 for a first
spike after 3 ms. ``scale`` is the distance in mV that counts as 1 for the surrogate gradient. Not included: synaptic
conductances, noise.

Source: Izhikevich (2003); patterns after its figure 2.
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

from typing import Literal, Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.neurons.base import Ode, Ops, Params, States, Value, parameter, surrogate_scale

PATTERNS = {
    "custom": {},
    "regular_spiking": {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0},
    "intrinsically_bursting": {"a": 0.02, "b": 0.2, "c": -55.0, "d": 4.0},
    "chattering": {"a": 0.02, "b": 0.2, "c": -50.0, "d": 2.0},
    "fast_spiking": {"a": 0.1, "b": 0.2, "c": -65.0, "d": 2.0},
    "low_threshold": {"a": 0.02, "b": 0.25, "c": -65.0, "d": 2.0},
    "thalamo_cortical": {"a": 0.02, "b": 0.25, "c": -65.0, "d": 0.05},
    "resonator": {"a": 0.1, "b": 0.26, "c": -65.0, "d": 2.0},
}
"""Firing pattern of the source -> its values of a, b, c and d."""


class Izhikevich(Ode):
    """Izhikevich's simple spiking neuron."""

    states = ("v", "u")

    class Options(Ode.Options):
        pattern: Literal[
            "custom",
            "regular_spiking",
            "intrinsically_bursting",
            "chattering",
            "fast_spiking",
            "low_threshold",
            "thalamo_cortical",
            "resonator",
        ] = option("custom", "firing pattern that sets a, b, c and d; custom: set them yourself")
        a: float = parameter(0.02, "rate of recovery", low=1e-4, unit="1/ms")
        b: float = parameter(
            0.2,
            "coupling of recovery to the membrane; above 0.267 there is no resting state",
            low=0.0,
            high=0.267,
            unit="1",
        )
        c: float = parameter(-65.0, "potential after a spike", high=0.0, unit="mV")
        d: float = parameter(8.0, "rise of recovery per spike", low=0.0, unit="mV")
        gain: float = parameter(30.0, "current per unit of the network's current", low=1e-3, unit="mV/ms")
        peak: float = option(30.0, "potential at which a spike is emitted", low=0.0, unit="mV")
        scale: float = surrogate_scale(50.0, "mV")
        substeps: int = option(4, "number of sub-steps in a step", low=1, high=10_000)

        @model_validator(mode="after")
        def _check_pattern_or_values(self) -> Self:
            for name in PATTERNS[self.pattern]:
                if (value := getattr(self, name)) != self.default(name):
                    raise RegistryError(
                        f"{name}: {value!r} is not allowed with pattern: {self.pattern}, which sets it; leave out one of the two"
                    )
            return self

    options: Options

    def __init__(self, options: Options) -> None:
        # the neuron's own options name its values alone, so that it can be built again from them
        super().__init__(options.model_copy(update={**PATTERNS[options.pattern], "pattern": "custom"}))

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        return s.rates(v=_compute_dv_dt(ops, s.v, s.u, p.b, p.gain * current), u=p.a * (p.b * s.v - s.u))

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        dt = self.dt / self.substeps
        v, u = s.v, s.u
        for _ in range(2):
            v = v + 0.5 * dt * _compute_dv_dt(ops, v, u, p.b, p.gain * current)
        return s.replace(v=v, u=u + dt * (p.a * (p.b * v - u)))

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - (self.options.peak - _compute_rest(ops, p.b))

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        return s.replace(v=s.v + spike * (p.c - _compute_rest(ops, p.b) - s.v), u=s.u + spike * p.d)


def _compute_dv_dt(ops: Ops, v: Value, u: Value, b: Value, current: Value) -> Value:
    """Return dv/dt in mV/ms."""
    return (0.04 * v + (b - _compute_root(ops, b))) * v - u + current


def _compute_root(ops: Ops, b: Value) -> Value:
    """Return 0.08 times half the distance in mV between the two fixed points without input."""
    return ops.sqrt((5.0 - b) ** 2 - 22.4)


def _compute_rest(ops: Ops, b: Value) -> Value:
    """Return the stable fixed point without input, in mV."""
    return -(5.0 - b + _compute_root(ops, b)) / 0.08
