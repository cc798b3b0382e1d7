"""Leaky integrate-and-fire: a leaky membrane that spikes and resets at a threshold.

    tau dV/dt = -V + I(t);   V >= threshold:  emit a spike, then V <- V - threshold ("subtract") or V <- 0 ("zero")

The step is the exact solution for a current that is constant over the step (zero-order hold): V <- a V + (1 - a) I with
a = exp(-dt/tau). This is ``input_gain: ode``. The default, ``unit``, drops the factor (1 - a), as snnTorch, PopSAN and Loihi do: one unit of current then
moves the membrane by one, for any tau. Reason for this default and the short tau: a control step has few inner steps, and with
the equation's own gain and tau = 20 ms a membrane hardly reaches its threshold, so layers stay silent and learn nothing.

V is relative to rest, in units of the threshold's default. Not included: a synaptic current, refractoriness.

Source: Gerstner et al., Neuronal Dynamics (2014), chapter 1; exact step: Rotter & Diesmann (1999).
"""

# pylint: disable=unused-argument  # every function of a neuron gets ops, states and parameters

from typing import Literal

from spiky_rl.config.options import option
from spiky_rl.neurons.base import DETACH_RESET, Ode, Ops, Params, States, Value, parameter


class Lif(Ode):
    """Leaky integrate-and-fire neuron."""

    states = ("v",)

    class Options(Ode.Options):
        tau: float = parameter(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")
        threshold: float = parameter(1.0, "potential at which a spike is emitted", low=1e-3, unit="1")
        reset: Literal["subtract", "zero"] = option(
            "subtract", "reset of the membrane: subtract the threshold, or set to zero"
        )
        detach_reset: bool = DETACH_RESET
        input_gain: Literal["ode", "unit"] = option("unit", "factor of the input: 1 - decay, or 1")

    options: Options

    def flow(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        gain = 1.0 if self.options.input_gain == "ode" else 1.0 / (1.0 - ops.exp(-self.dt / p.tau))
        return s.rates(v=(gain * current - s.v) / p.tau)

    def integrate(self, ops: Ops, current: Value, s: States, p: Params) -> States:
        ode = self.options.input_gain == "ode"
        return s.replace(v=p.decay * s.v + ((1.0 - p.decay) * current if ode else current))

    def threshold(self, ops: Ops, s: States, p: Params) -> Value:
        return s.v - p.threshold

    def reset(self, ops: Ops, spike: Value, s: States, p: Params) -> States:
        subtract = self.options.reset == "subtract"
        return s.replace(v=s.v - spike * p.threshold if subtract else s.v * (1.0 - spike))
