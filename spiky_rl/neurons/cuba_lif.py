"""Current-based leaky integrate-and-fire: a leaky membrane that is driven by a leaky synaptic current.

    tau_synapse dI/dt = -I + sum of inputs;   tau dV/dt = -V + I;   V >= threshold:  emit a spike, then V <- V - threshold or V <- 0

Step: I <- b I + x, V <- a V + I with a = exp(-dt/tau) and b = exp(-dt/tau_synapse): each of the two is solved for an input that is
held over the step, without the factors (1 - a) and (1 - b), as `lif` does with ``input_gain: unit``. One unit of input moves the
current by one at once, and the membrane by one per unit of current. An input acts on the membrane within its own step, as in
snnTorch's Synaptic, SpikingJelly's CUBALIFNode and NIR's CubaLIF.

V and I are relative to rest, in units of the threshold's default. Not included: reversal potentials, refractoriness.

Source: Gerstner et al., Neuronal Dynamics (2014), chapter 1; step: Eshraghian et al. (2023), snnTorch.
"""

from typing import Literal

from spiky_rl.config.options import option
from spiky_rl.neurons.base import DETACH_RESET, Neuron, Ops, Params, States, Value, parameter


class CubaLif(Neuron):
    """Leaky integrate-and-fire neuron with a synaptic current."""

    states = ("v", "i")

    class Options(Neuron.Options):
        tau_synapse: float = parameter(
            2.0, "time constant of the synaptic current", low=1e-3, unit="ms", transform="decay"
        )
        tau: float = parameter(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")
        threshold: float = parameter(1.0, "potential at which a spike is emitted", low=1e-3, unit="1")
        reset: Literal["subtract", "zero"] = option(
            "subtract", "reset of the membrane: subtract the threshold, or set to zero"
        )
        detach_reset: bool = DETACH_RESET

    options: Options

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        i = p.decay_synapse * s.i + current
        v = p.decay * s.v + i
        spike = ops.spike(v - p.threshold)
        reset = ops.detach(spike) if self.options.detach_reset else spike
        subtract = self.options.reset == "subtract"
        return spike, s.replace(v=v - reset * p.threshold if subtract else v * (1.0 - reset), i=i)
