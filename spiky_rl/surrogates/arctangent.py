"""Arctangent: a bump of height k/2 with long tails.

    ds/dx = (k / 2) / (1 + (pi k x / 2)^2)

Peak k/2. Source: Fang et al. (2021), with k their alpha; SpikingJelly's and snnTorch's ATan.
"""

import math

from spiky_rl.surrogates import base

HALF_PI = math.pi / 2


class Arctangent(base.Surrogate):
    """Arctangent: (k/2) / (1 + (pi k x / 2)^2)."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(2.0, "k: twice the peak")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 * slope / (1.0 + (HALF_PI * slope * x) ** 2)

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 + ops.atan(HALF_PI * slope * x) / (2.0 * HALF_PI)
