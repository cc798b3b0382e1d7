"""Rectangle: a window of height k around the threshold.

    ds/dx = k where |x| < 1/(2 k), else 0

Area 1; slope 1 is PopSAN's window of half-width 1/2. Source: Wu et al. (2018); Tang et al. (2020).
"""

from spiky_rl.surrogates import base


class Rectangle(base.Surrogate):
    """Rectangle: k where |x| < 1/(2k), else 0."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(1.0, "k: height and inverse width")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return ops.where(ops.abs(x) < 0.5 / slope, slope, 0.0 * x)

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 + ops.min(ops.max(slope * x, -0.5), 0.5)
