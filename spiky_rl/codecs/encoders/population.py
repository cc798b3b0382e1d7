"""Population: Gaussian receptive fields over every observation, read out as spikes.

    activity a = exp(-(x - mu)^2 / (2 sigma^2)), for P centres mu spread evenly over [-span, span]

Centres and widths are learned. ``deterministic``: each activity charges an integrate-and-fire neuron with soft reset,
V <- V + a, spike at V >= 1, from rest in every control step. ``poisson``: a spike with probability a in every inner step. The
noise is the same for all environments and is drawn after every PPO update from a generator of its own, so within an iteration
the mean action of an observation is repeatable, as PPO's ratio requires.

Far beyond plus or minus ``span`` no field responds: agents with this encoder set ``actor.obs_normalization: true``.

Source: Tang et al. (2020), PopSAN.
"""

from __future__ import annotations

from typing import Literal, override

import torch
from torch import Tensor

from spiky_rl.codecs.encoders.base import Encoder, resample_noise, uniform_noise
from spiky_rl.config.options import Settings, option
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value
from spiky_rl.surrogates.rectangle import Rectangle


class Population(Encoder):
    """[T, B, O] -> spikes [T, K, B, O P]."""

    binary = True

    class Options(Settings):
        fields: int = option(10, "P: receptive fields per observation", low=2)
        span: float = option(3.0, "outermost centres, in units of the (normalised) observation", low=1e-3)
        deviation: float = option(0.387, "initial standard deviation of a field", low=1e-3)
        mode: Literal["deterministic", "poisson"] = option(
            "deterministic", "conversion of activity to spikes: integrate-and-fire, or random"
        )
        seed: int = option(0, "with poisson: seed of the noise", low=0)

    def __init__(self, options: Options, inputs: int, steps: int) -> None:
        super().__init__()
        self.width = inputs * options.fields
        self.steps, self.mode, self.seed = steps, options.mode, options.seed
        centres = torch.linspace(-options.span, options.span, options.fields).repeat(inputs, 1)
        self.centre = torch.nn.Parameter(centres)  # [O, P]
        self.log_deviation = torch.nn.Parameter(torch.full((inputs, options.fields), options.deviation).log())
        self.ops, self.neuron = TorchOps(Rectangle.from_options()), IntegrateAndFire.from_options()
        self.register_buffer("noise", uniform_noise(options.seed, steps, self.width))
        self.noise: Tensor

    def compute_activity(self, x: Tensor) -> Tensor:
        """Return receptive field activities [T, B, O P] in (0, 1] for ``x`` [T, B, O]."""
        distance = (x.unsqueeze(-1) - self.centre) / self.log_deviation.exp()
        return torch.exp(-0.5 * distance**2).flatten(-2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        activity = self.compute_activity(x)
        if self.mode == "poisson":
            return self.ops.spike(activity.unsqueeze(1) - self.noise[:, None])
        # the kernel sees every control step as a sample of the batch, so that each one starts from rest
        samples = activity.flatten(0, 1)[None, None]
        spikes, _ = dispatch.unroll(self.backend, self.neuron, self.ops, samples, self.steps, None, ())
        return spikes[0].unflatten(1, activity.shape[:2]).transpose(0, 1)

    @override
    def resample_noise(self, updates: int) -> None:
        resample_noise(self.noise, self.seed + updates)

    def count_operations(self, x: Tensor) -> Tensor:
        """Count three operations per field and control step: difference, scaling, square; the exponential does not count.

        ``deterministic`` adds two per field and inner step: charge and reset.
        """
        per_field = 3.0 if self.mode == "poisson" else 3.0 + 2.0 * self.steps
        return torch.full(x.shape[:2], per_field * self.width, device=x.device)


class IntegrateAndFire(Neuron):
    """Neuron of a receptive field: without a leak, with a threshold of 1 and a soft reset; its input is the field's activity."""

    states = ("v",)

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        v = s.v + current
        spike = ops.spike(v - 1.0)
        return spike, s.replace(v=v - ops.detach(spike))
