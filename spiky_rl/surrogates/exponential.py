"""Exponential: falls off exponentially on both sides of the threshold; in SLAYER the density of the probability that a spike changes.

    ds/dx = scale k/2 exp(-k |x|)

Its integral is the scale. Source: Shrestha & Orchard (2018).
"""

from spiky_rl.config.options import option
from spiky_rl.surrogates import base


class Exponential(base.Surrogate):
    """SLAYER's density: scale k/2 exp(-k|x|)."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(2.0, "k: decline per unit of potential")
        scale: float = option(1.0, "integral of the derivative", low=1e-3)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.scale = options.scale

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 * self.scale * slope * ops.exp(-slope * ops.abs(x))

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        half = 0.5 * self.scale * (1.0 - ops.exp(-slope * ops.abs(x)))
        return 0.5 + ops.where(x > 0.0, half, -half)
