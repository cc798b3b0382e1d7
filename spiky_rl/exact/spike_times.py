"""SpikeProp: spike times of SRM0 neurons (spike response model) as a differentiable function of weights, delays and input spike times.

    u_j(t) = sum_i sum_m w_jim eps(t - t_i - d_m) + sum_k eta(t - t_k),   u_j(t_k) = threshold from below:  spike k of j at t_k
    eps(s) = s/tau exp(1 - s/tau),   eta(s) = -threshold exp(-s/tau_refractory)   for s > 0

u_j is the potential of neuron j, t_i a spike time of input i, w_jim the weight of the synapse from input i with the delay d_m. The
gradient follows from the implicit function theorem: with D_k = du/dt at spike k,

    D_k dt_k = sum w eps' (dt_i + dd_m) - sum eps dw + sum_(l<k) eta' dt_l

It grows without bound if u barely reaches the threshold, so D is at least ``floor``. A neuron that does not spike has no gradient;
`SpikeTimeLayer.raise_silent_weights` raises its weights. With tau_refractory = tau, u is the potential of a leaky integrate-and-fire
neuron with reset by subtraction, whose synaptic currents have the same time constant and the weights e w (e = 2.718).

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
"""Maximum iterations of Newton's method, with bisection if it leaves its bracket; bisection alone needs 50."""


@dataclass(frozen=True)
class SrmKernels:
    """Time constants, threshold and limits, shared by all neurons of a layer."""

    tau: float = 7.0
    """Time constant in ms of a postsynaptic potential; its maximum, 1, is at this time."""
    threshold: float = 1.0
    tau_refractory: float = 7.0
    """Time constant in ms of the after-spike potential, which begins at minus the threshold."""
    duration: float = 50.0
    """Duration in ms; a neuron without a spike within it counts as silent."""
    spikes: int = 1
    """Maximum spikes per neuron."""
    resolution: float = 0.1
    """Search grid in ms: an excursion above the threshold that is shorter may be missed. Spike times themselves are exact."""
    floor: float = 0.1
    """Minimum slope du/dt, in 1/ms, in the denominator of a gradient."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and (value > 0 or (value == 0 and field.name == "floor"))):
                lowest = "at least 0" if field.name == "floor" else "above 0"
                raise UserError(f"{field.name}: {value!r} is out of range; allowed: {lowest} and finite")

    def postsynaptic(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps and its derivative at ``s`` ms after an arrival."""
        x = s.clamp(min=0.0) / self.tau
        rise = torch.exp(1.0 - x)
        return x * rise, torch.where(s > 0.0, (1.0 - x) * rise / self.tau, 0.0)

    def refractory(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return eta and its derivative at ``s`` ms after the neuron's own spike."""
        value = torch.where(
            s > 0.0, -self.threshold * torch.exp(-s.clamp(min=0.0) / self.tau_refractory), 0.0
        )
        return value, -value / self.tau_refractory


def compute_spike_times(times: Tensor, weights: Tensor, delays: Tensor, kernels: SrmKernels) -> Tensor:
    """Return the spike times [B, J, ``kernels.spikes``] in ms, in order; infinite where a neuron has no further spike.

    The computation is in double precision, whatever the weights' type.

    Args:
        times: Input spike times [B, I, S] in ms, not negative; infinite for no spike.
        weights: [J, I, M].
        delays: [M] in ms, not negative.
        kernels: Time constants, threshold and limits.

    Raises:
        UserError: If shapes do not match, times or delays are negative, or weights are not finite floating-point numbers.
    """
    if times.dim() != 3 or weights.shape[1:] != (times.shape[1], *delays.shape):
        raise UserError(
            f"weights: expected the shape [J, I, M] for times [B, I, S] and delays [M], got {list(weights.shape)}, {list(times.shape)} and {list(delays.shape)}"
        )
    for name, values in (("times", times), ("delays", delays)):
        if not bool((values >= 0.0).all()):
            raise UserError(f"{name}: {values.min().item()!r} is out of range; allowed: at least 0 ms")
    if not weights.is_floating_point():
        raise UserError(
            f"weights: {weights.dtype} given; allowed: floating-point numbers, the type of spike times"
        )
    # NaN is never above the threshold: its neuron would pass for silent
    if not bool(weights.isfinite().all()):
        raise UserError("weights: expected finite numbers, got NaN or infinity")
    spikes = _SpikeTimes.apply(times.double(), weights.double(), delays.double(), kernels)
    return spikes.to(weights.dtype)  # type: ignore[union-attr]


class SpikeTimeLayer(torch.nn.Module):
    """A layer of neurons, connected to each input by synapses with several delays.

    Args:
        inputs: I.
        neurons: J.
        generator: Generator of the initial weights: U(0, ``scale``) times the sign of their input.
        scale: Maximum absolute initial weight.
        delays: [M] in ms.
        signs: [I], 1 or -1: the fixed sign of all weights of an input; None for weights of any sign.
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
        """Map input spike ``times`` [B, I, S] in ms to output spike times [B, J, spikes]."""
        return compute_spike_times(times, self.weights, self.delays, self.kernels)

    @torch.no_grad()
    def raise_silent_weights(self, times: Tensor, amount: float = 0.01) -> None:
        """Raise every neuron's weights by ``amount`` times the share of samples in which it is silent.

        ``times`` [B, J, spikes] is the output of `forward`.
        """
        silent = times[..., 0].isinf().to(self.weights.dtype).mean(0)
        self.weights += amount * silent[:, None, None]
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Set weights with the wrong sign to 0. Call this after every optimiser step."""
        if self.signs is not None:
            sign = self.signs[:, None]
            self.weights.copy_(sign * (sign * self.weights).clamp(min=0.0))


class _SpikeTimes(torch.autograd.Function):
    """Root finding in the forward pass, the implicit function theorem in the backward pass."""

    @staticmethod
    def forward(ctx: Any, times: Tensor, weights: Tensor, delays: Tensor, kernels: SrmKernels) -> Tensor:
        # not coarser than the resolution; the margin is for rounding, as in 0.3 / 0.1
        steps = math.ceil(kernels.duration / kernels.resolution * (1.0 - 1e-12))
        grid = torch.linspace(0.0, kernels.duration, steps + 1, dtype=torch.float64, device=times.device)
        arrivals = times[..., None] + delays
        # [B, I, M, grid]: the responses to an input's spikes add up before they are weighted
        response = grid.new_zeros(*times.shape[:2], len(delays), len(grid))
        for part in arrivals.unbind(2):
            response += kernels.postsynaptic(grid - part[..., None])[0]
        potential = torch.einsum("bimg,jim->bjg", response, weights)
        spikes: list[Tensor] = []
        for _ in range(kernels.spikes):
            spikes.append(_find_next_spike(grid, potential, spikes, arrivals, weights, kernels))
            since = grid - spikes[-1][..., None]
            potential = potential + kernels.refractory(since)[0]
            # exclude the time up to this spike from the search
            potential = torch.where(since > 0.0, potential, -math.inf)
        spike_times = torch.stack(spikes, -1)
        ctx.save_for_backward(times, weights, delays, spike_times)
        ctx.kernels = kernels
        return spike_times

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        times, weights, delays, spike_times = ctx.saved_tensors
        kernels: SrmKernels = ctx.kernels
        exists = spike_times.isfinite()
        grad = torch.where(exists, grads[0], 0.0)
        spikes = torch.where(exists, spike_times, 0.0)
        arrivals = times[..., None] + delays
        of_weights, of_arrivals = torch.zeros_like(weights), torch.zeros_like(arrivals)
        for k in reversed(range(kernels.spikes)):
            value, slope = kernels.postsynaptic(_elapsed_times(spikes[..., k], arrivals))
            _, own_slope = kernels.refractory(spikes[..., k, None] - spikes[..., :k])
            steepness = torch.einsum("bjism,jim->bj", slope, weights) + own_slope.sum(-1)  # D_k
            scaled = torch.where(exists[..., k], grad[..., k] / steepness.clamp(min=kernels.floor), 0.0)
            of_weights -= torch.einsum("bj,bjism->jim", scaled, value)
            of_arrivals += torch.einsum("bj,bjism,jim->bism", scaled, slope, weights)
            grad[..., :k] += scaled[..., None] * own_slope
        return of_arrivals.sum(-1), of_weights, of_arrivals.sum((0, 1, 2)), None


def _elapsed_times(time: Tensor, arrivals: Tensor) -> Tensor:
    """Return the time from every arrival [B, I, S, M] to ``time`` [B, J], as [B, J, I, S, M]."""
    return time[:, :, None, None, None] - arrivals[:, None]


def _find_next_spike(
    grid: Tensor,
    potential: Tensor,
    before: list[Tensor],
    arrivals: Tensor,
    weights: Tensor,
    kernels: SrmKernels,
) -> Tensor:
    """Return the time [B, J] of the first threshold crossing after the spikes ``before``; infinite without a crossing.

    ``potential`` [B, J, grid] is minus infinity up to the last spike. The grid brackets the crossing; Newton's method locates it.
    """
    above = potential >= kernels.threshold
    has_spike, index = above.any(-1), above.to(torch.uint8).argmax(-1)
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
        has_converged = (moved - time).abs() <= 1e-15 * kernels.duration
        time = moved
        if bool((has_converged | ~has_spike).all()):
            break
    return torch.where(has_spike, time, math.inf)
