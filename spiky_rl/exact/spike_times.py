"""SpikeProp: spike times of SRM0 neurons as a differentiable function of weights, delays and the spike times that come in.

    u_j(t) = sum_i sum_m w_jim eps(t - t_i - d_m) + sum_k eta(t - t_k),   u_j(t_k) = threshold from below:  spike k of j at t_k
    eps(s) = s/tau exp(1 - s/tau),   eta(s) = -threshold exp(-s/tau_refractory)   for s > 0

The gradient is that of the implicit function: with D_k = du/dt at spike k,

    D_k dt_k = sum w eps' (dt_i + dd_m) - sum eps dw + sum_(l<k) eta' dt_l

It grows without bound where u only just reaches the threshold, so D is at least ``floor``. A neuron that does not spike has no
gradient; `SpikeTimeLayer.raise_silent_weights` raises its weights. With tau_refractory = tau a neuron is a leaky one with reset by subtraction
and synapses of the same time constant, whose weights are e w.

Sources: Bohte, Kok & La Poutre (2002); several spikes per neuron: Booij & Nguyen (2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from spiky_rl.config.registry import UserError

ITERATIONS = 100
"""Most iterations of Newton's method; where it leaves its bracket, of bisection, which alone needs 50."""


@dataclass(frozen=True)
class SrmKernels:
    """Time constants, threshold and limits that all neurons of a layer share."""

    tau: float = 7.0
    """Time constant of a postsynaptic potential in ms: its maximum, 1, is that late."""
    threshold: float = 1.0
    tau_refractory: float = 7.0
    """Time constant in ms of the fall by one threshold after a spike."""
    duration: float = 50.0
    """ms after which a neuron counts as silent."""
    spikes: int = 1
    """Most spikes per neuron."""
    resolution: float = 0.1
    """ms; a potential above the threshold for less than this may be overlooked. Spike times themselves are exact."""
    floor: float = 0.1
    """Least slope du/dt in 1/ms that a gradient divides by."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and (value > 0 or (value == 0 and field.name == "floor"))):
                raise UserError(f"{field.name}: {value!r} is out of range; it must be above 0 and finite")

    def postsynaptic(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """eps and its derivative at ``s`` ms after an arrival."""
        x = s.clamp(min=0.0) / self.tau
        rise = torch.exp(1.0 - x)
        return x * rise, torch.where(s > 0.0, (1.0 - x) * rise / self.tau, 0.0)

    def refractory(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """eta and its derivative at ``s`` ms after the neuron's own spike."""
        value = torch.where(
            s > 0.0, -self.threshold * torch.exp(-s.clamp(min=0.0) / self.tau_refractory), 0.0
        )
        return value, -value / self.tau_refractory


def compute_spike_times(times: Tensor, weights: Tensor, delays: Tensor, kernels: SrmKernels) -> Tensor:
    """Spike times [B, J, ``kernels.spikes``] in ms, in order; infinite where there are no more.

    Args:
        times: [B, I, S] in ms, not negative; infinite: no spike.
        weights: [J, I, M].
        delays: [M] in ms, not negative.
        kernels: Potentials and how spikes are located. Computed in double precision, whatever the weights' type.

    Raises:
        UserError: Shapes that do not fit, and times or delays below 0.
    """
    if times.dim() != 3 or weights.shape[1:] != (times.shape[1], *delays.shape):
        raise UserError(
            f"weights: expected the shape [J, I, M] for times [B, I, S] and delays [M], got {list(weights.shape)}, {list(times.shape)} and {list(delays.shape)}"
        )
    for name, values in (("times", times), ("delays", delays)):
        if not bool((values >= 0.0).all()):
            raise UserError(f"{name}: {values.min().item()!r} is out of range; it must be at least 0 ms")
    spikes = _SpikeTimes.apply(times.double(), weights.double(), delays.double(), kernels)
    return spikes.to(weights.dtype)  # type: ignore[union-attr]


class SpikeTimeLayer(torch.nn.Module):
    """A layer of neurons, connected to each input through synapses of several delays.

    Args:
        inputs: I.
        neurons: J.
        generator: Weights are drawn from U(0, ``scale``), times the sign of their input.
        scale: Largest size of a weight.
        delays: [M] in ms.
        signs: [I], 1 or -1: what all weights of an input are kept at. None: they are free.
        kernels: Kernels of all neurons.
    """

    delays: Tensor
    signs: Tensor | None

    def __init__(
        self,
        inputs: int,
        neurons: int,
        generator: torch.Generator,
        scale: float = 0.25,
        delays: Sequence[float] | Tensor = tuple(range(1, 17)),
        signs: Sequence[float] | Tensor | None = None,
        kernels: SrmKernels = SrmKernels(),
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.register_buffer("delays", torch.as_tensor(delays, dtype=torch.float64))
        self.register_buffer("signs", None if signs is None else torch.as_tensor(signs).double())
        size = neurons, inputs, len(self.delays)
        weights = scale * torch.rand(size, generator=generator, dtype=torch.float64)
        self.weights = torch.nn.Parameter(weights if self.signs is None else weights * self.signs[:, None])

    def forward(self, times: Tensor) -> Tensor:
        """Spike ``times`` [B, I, S] in ms -> [B, J, spikes]."""
        return compute_spike_times(times, self.weights, self.delays, self.kernels)

    @torch.no_grad()
    def raise_silent_weights(self, times: Tensor, amount: float = 0.01) -> None:
        """Raise all weights of neurons that are silent in ``times`` [B, J, spikes]: by ``amount`` if they are in every sample."""
        silent = times[..., 0].isinf().to(self.weights.dtype).mean(0)
        self.weights += amount * silent[:, None, None]
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Put weights that have changed their sign to 0; to be called after every step of an optimiser."""
        if self.signs is not None:
            sign = self.signs[:, None]
            self.weights.copy_(sign * (sign * self.weights).clamp(min=0.0))


class _SpikeTimes(torch.autograd.Function):
    """Located forward, implicit backward."""

    @staticmethod
    def forward(ctx: Any, times: Tensor, weights: Tensor, delays: Tensor, kernels: SrmKernels) -> Tensor:
        steps = round(kernels.duration / kernels.resolution)
        grid = torch.linspace(0.0, kernels.duration, steps + 1, dtype=torch.float64, device=times.device)
        arrivals = times[..., None] + delays
        # [B, I, M, grid]: the spikes of an input add up before they are weighed
        driven = sum(kernels.postsynaptic(grid - part[..., None])[0] for part in arrivals.unbind(2))
        potential = torch.einsum("bimg,jim->bjg", driven, weights)
        spikes: list[Tensor] = []
        for _ in range(kernels.spikes):
            spikes.append(_find_next_spike(grid, potential, spikes, arrivals, weights, kernels))
            since = grid - spikes[-1][..., None]
            potential = potential + kernels.refractory(since)[0]
            # what was before this spike is over
            potential = torch.where(since > 0.0, potential, -math.inf)
        located = torch.stack(spikes, -1)
        ctx.save_for_backward(times, weights, delays, located)
        ctx.kernels = kernels
        return located

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        times, weights, delays, located = ctx.saved_tensors
        kernels: SrmKernels = ctx.kernels
        alive = located.isfinite()
        grad = torch.where(alive, grads[0], 0.0)
        spikes = torch.where(alive, located, 0.0)
        arrivals = times[..., None] + delays
        to_weights, to_arrivals = torch.zeros_like(weights), torch.zeros_like(arrivals)
        for k in reversed(range(kernels.spikes)):
            value, slope = kernels.postsynaptic(_elapsed_times(spikes[..., k], arrivals))
            _, own = kernels.refractory(spikes[..., k, None] - spikes[..., :k])
            steepness = torch.einsum("bjism,jim->bj", slope, weights) + own.sum(-1)
            share = torch.where(alive[..., k], grad[..., k] / steepness.clamp(min=kernels.floor), 0.0)
            to_weights -= torch.einsum("bj,bjism->jim", share, value)
            to_arrivals += torch.einsum("bj,bjism,jim->bism", share, slope, weights)
            grad[..., :k] += share[..., None] * own
        return to_arrivals.sum(-1), to_weights, to_arrivals.sum((0, 1, 2)), None


def _elapsed_times(time: Tensor, arrivals: Tensor) -> Tensor:
    """[B, J, I, S, M]: time [B, J] since every arrival [B, I, S, M]."""
    return time[:, :, None, None, None] - arrivals[:, None]


def _find_next_spike(
    grid: Tensor,
    potential: Tensor,
    before: list[Tensor],
    arrivals: Tensor,
    weights: Tensor,
    kernels: SrmKernels,
) -> Tensor:
    """The first crossing of ``potential`` [B, J, grid], which is minus infinity up to the last spike: [B, J]."""
    above = potential >= kernels.threshold
    spikes, index = above.any(-1), above.to(torch.uint8).argmax(-1)
    high, low = grid[index], grid[(index - 1).clamp(min=0)]
    if before:
        low = torch.maximum(low, before[-1].clamp(max=kernels.duration))
    time = 0.5 * (low + high)
    for _ in range(ITERATIONS):
        value, slope = kernels.postsynaptic(_elapsed_times(time, arrivals))
        distance = torch.einsum("bjism,jim->bj", value, weights) - kernels.threshold
        steepness = torch.einsum("bjism,jim->bj", slope, weights)
        for spike in before:
            value, slope = kernels.refractory(time - spike)
            distance, steepness = distance + value, steepness + slope
        low, high = torch.where(distance < 0.0, time, low), torch.where(distance < 0.0, high, time)
        newton = time - distance / steepness
        inside = (newton >= low) & (newton <= high)
        moved = torch.where(inside, newton, 0.5 * (low + high))
        settled = (moved - time).abs() <= 1e-15 * kernels.duration
        time = moved
        if bool((settled | ~spikes).all()):
            break
    return torch.where(spikes, time, math.inf)
