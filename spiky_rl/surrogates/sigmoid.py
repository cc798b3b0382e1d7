"""Derivative of the logistic function.

    ds/dx = k sigma(k x) (1 - sigma(k x)),   sigma(y) = 1 / (1 + exp(-y))

Area 1, peak k/4; written with tanh, which does not overflow. Source: Zenke & Vogels (2021).
"""

from spiky_rl.surrogates import base


class Sigmoid(base.Surrogate):
    """Derivative of the logistic function: k s(kx) (1 - s(kx))."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(4.0, "k: steepness of the logistic function")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return 0.25 * slope * (1.0 - ops.tanh(0.5 * slope * x) ** 2)

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 + 0.5 * ops.tanh(0.5 * slope * x)
