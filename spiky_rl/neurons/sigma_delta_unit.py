"""Sigma-delta unit: a unit of an ANN that sends the change of its activation once the change reaches a threshold.

    s <- s + I_k;   y = f(s + bias);   d = y - sent;   event = d where |d| >= threshold, else 0;   sent <- sent + event

The sum s of graded events times weights restores W y of the layer below, so a network of these units computes what the ANN with
the same weights, biases and activation f does, with an error below the threshold times the sum of the absolute weights per layer.
`sigma_delta` has no bias and fewer activations. Connections have no bias here: it would be added in every step. Rest is zero, so
an episode begins with the event f(bias). There is no equation in time: dt has no effect, and a constant value causes no operations.

Events are graded, so synaptic operations are multiplications. The gradient passes straight through the threshold, as if every
change were sent; the gradient of the threshold itself is the surrogate's at |d| - threshold. At u = s + bias = 0, where every unit
without a bias starts, relu has the gradient 1 (torch's has 0; both are subgradients). States are in units of y.

Source: O'Connor & Welling (2016); elu: Clevert et al. (2016).
"""

from typing import Literal

from spiky_rl.config.options import option
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter


class SigmaDeltaUnit(Neuron):
    """Unit of an ANN with graded events."""

    graded = True
    constant_inputs = ("bias",)
    states = ("s", "sent")

    class Options(Neuron.Options):
        threshold: float = parameter(0.25, "smallest change that is sent", low=1e-3, unit="1")
        bias: float = parameter(0.0, "constant that is added to the sum", unit="1")
        activation: Literal["elu", "relu", "tanh", "identity"] = option("relu", "f: activation of the unit")

    options: Options

    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        total = s.s + current
        u, activation = total + p.bias, self.options.activation
        if activation == "elu":
            # not a sum of max(u, 0) and min(u, 0): at 0 each of them passes the whole gradient on
            y = ops.where(u > 0.0, u, ops.exp(ops.min(u, 0.0)) - 1.0)
        elif activation == "relu":
            y = ops.max(u, 0.0)
        else:
            y = ops.tanh(u) if activation == "tanh" else u
        change = y - s.sent
        constant = ops.detach(change)
        event = constant * ops.spike(ops.abs(constant) - p.threshold) + (change - constant)
        return event, s.replace(s=total, sent=s.sent + event)
