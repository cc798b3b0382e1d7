"""Gaussian density of standard deviation 1/k.

    ds/dx = k / sqrt(2 pi) exp(-(k x)^2 / 2)

Area 1, peak 0.399 k. Source: Yin et al. (2021), the central lobe alone.
"""

import math

from spiky_rl.surrogates import base

INVERSE_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
INVERSE_SQRT_2 = math.sqrt(0.5)


class Gaussian(base.Surrogate):
    """Gaussian density of standard deviation 1/k."""

    class Options(base.Surrogate.Options):
        slope: float = base.declare_slope(2.0, "k: inverse standard deviation")

    def derivative(self, ops: base.Ops, x: base.Value, slope: base.Value) -> base.Value:
        return slope * INVERSE_SQRT_2PI * ops.exp(-0.5 * (slope * x) ** 2)

    def primitive(self, ops: base.ReferenceOps, x: base.Value, slope: base.Value) -> base.Value:
        return 0.5 + 0.5 * ops.erf(slope * x * INVERSE_SQRT_2)
