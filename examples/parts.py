"""An encoder, a decoder, a surrogate, a penalty and a learning rule of one's own.

`parts_ppo.yaml` beside this file uses them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.options import Settings, option
from spiky_rl.learning.base import LearningRule
from spiky_rl.penalties.base import Penalty
from spiky_rl.surrogates.base import Ops, ReferenceOps, Surrogate, Value, declare_slope


class Symlog(Encoder):
    """Symmetric logarithm: large observations become currents of moderate size.

    Source: Hafner et al. (2023).
    """

    def __init__(self, inputs: int, steps: int) -> None:
        super().__init__()
        self.width = inputs

    def forward(self, x: Tensor) -> Tensor:
        # [T, B, O] -> [T, 1, B, O]: constant over the inner steps
        return (x.sign() * x.abs().log1p()).unsqueeze(1)

    def count_operations(self, x: Tensor) -> Tensor:
        return torch.full(x.shape[:2], 2.0 * x.shape[-1], device=x.device)


class Ramp(Decoder):
    """Linear map of spike counts in which the k-th inner step has the weight k."""

    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        # [T, K, B, N] -> [T, B, F]
        ramp = torch.arange(1.0, spikes.shape[1] + 1.0, device=spikes.device)
        counts = torch.einsum("tkbn,k->tbn", spikes, ramp / ramp.sum())
        return torch.nn.functional.linear(counts, self.synapses(), self.readout.bias), ()


class MultiGaussian(Surrogate):
    """Gaussian with negative sides, which pull silent neurons back.

    Source: Yin et al. (2021).
    """

    class Options(Surrogate.Options):
        slope: float = declare_slope(2.0, "1 / sigma of the middle Gaussian")
        height: float = option(0.15, "height of the sides", low=0.0)
        ratio: float = option(6.0, "width of the sides in units of sigma", low=1.0)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        h, r = options.height, options.ratio
        # factor of each Gaussian, its mean and width in units of sigma
        self.gaussians = ((1.0 + h, 0.0, 1.0), (-h, 1.0, r), (-h, -1.0, r))

    def derivative(self, ops: Ops, x: Value, slope: Value) -> Value:
        total: Value = 0.0
        for factor, mean, width in self.gaussians:
            z = (x * slope - mean) * (1.0 / width)
            total = total + factor / (width * math.sqrt(2.0 * math.pi)) * ops.exp(-0.5 * z**2)
        return total * slope

    def primitive(self, ops: ReferenceOps, x: Value, slope: Value) -> Value:
        total: Value = 0.5
        for factor, mean, width in self.gaussians:
            z = (x * slope - mean) * (1.0 / width)
            total = total + 0.5 * factor * ops.erf(z * math.sqrt(0.5))
        return total


class L1(Penalty):
    """Mean firing rate of every layer."""

    raises_rates = False  # it lowers them

    class Options(Settings):
        weight: float = option(1.0, "weight of the term in the loss", low=0.0)

    options: Options

    def compute(self, rates: Sequence[Tensor], fan_out: Sequence[float]) -> Tensor:
        return self.options.weight * torch.stack([rate.mean() for rate in rates]).sum()


class Damped(LearningRule):
    """BPTT in which errors on their way to an earlier layer are multiplied by ``share``."""

    class Options(Settings):
        share: float = option(0.5, "factor of errors at every layer", low=0.0, high=1.0)

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.share = options.share

    def on_layer_input(self, signal: Tensor) -> Tensor:
        fixed = signal.detach()
        return fixed + self.share * (signal - fixed)
