"""Sigma-delta: sums its input, and sends the change of its value once the change reaches a threshold.

    s <- s + I_k;   y = max(s, 0) or s;   d = y - sent;   event = d where |d| >= threshold, else 0;   sent <- sent + event

Sigma is the sum s of graded events times weights, which restores the value of the layer below; delta is the event. ``sent`` is
the receiver's copy of y. Its error is below the threshold, and after a linear layer below the threshold times the sum of the
absolute weights. There is no equation in time: dt has no effect, and a constant value causes no operations.

Because of the sum, the input of each inner step is a change: a constant current is a ramp, and a layer's bias is added in
every step. After K inner steps of constant input, y of each layer equals that of a rectified-linear network with K times the
input. Events are graded, so synaptic operations are multiplications.

The gradient passes straight through the threshold, as if every change were sent (d event / d y = 1); the gradient of the
threshold itself is the surrogate's at |d| - threshold. States are in units of y; the network's currents enter unscaled. Not
included: quantised events, lava-dl's bias after the sum.

Source: O'Connor & Welling (2016); Orchard et al. (2021), lava-dl's sigma_delta.
"""

from typing import Literal

from spiky_rl.config.options import option
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter


class SigmaDeltaNeuron(Neuron):
    """Sigma-delta neuron with graded events."""

    graded = True
    states = ("s", "sent")

    class Options(Neuron.Options):
        threshold: float = parameter(0.5, "smallest change that is sent", low=1e-3, unit="1")
        activation: Literal["relu", "identity"] = option("relu", "y: max(s, 0), or s itself")

    options: Options

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        total = s.s + current
        y = ops.max(total, 0.0) if self.options.activation == "relu" else total
        change = y - s.sent
        constant = ops.detach(change)
        event = constant * ops.spike(ops.abs(constant) - p.threshold) + (change - constant)
        return event, s.replace(s=total, sent=s.sent + event)
