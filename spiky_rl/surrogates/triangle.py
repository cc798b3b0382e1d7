"""Triangle: a tent of height 1 that ends at a distance of 1/k.

    ds/dx = max(0, 1 - k |x|)

Peak 1, zero beyond 1/k. Source: Bellec et al. (2018), without their dampening factor.
"""

from spiky_rl.surrogates import base


class Triangle(base.Surrogate):
    """Triangle: max(0, 1 - k|x|)."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(1.0, "k: inverse half-width")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return ops.max(1.0 - slope * ops.abs(x), 0.0)

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        inside = ops.min(ops.max(x, -1.0 / slope), 1.0 / slope)
        return 0.5 + inside - 0.5 * slope * inside * ops.abs(inside)
