"""SuperSpike's fast sigmoid: a cusp of height 1 for any slope.

    ds/dx = 1 / (1 + k |x|)^2

Source: Zenke & Ganguli (2018).
"""

from spiky_rl.surrogates import base


class FastSigmoid(base.Surrogate):
    """SuperSpike's fast sigmoid: 1 / (1 + k|x|)^2."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(2.0, "k: decline per unit of potential")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return 1.0 / (1.0 + slope * ops.abs(x)) ** 2

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 + x / (1.0 + slope * ops.abs(x))
