"""Spike-timing-dependent plasticity over a whole rollout, by traces per neuron instead of per synapse.

    r <- e^(-dt/tau) r in every inner step, then r <- r + x (all pairs), or r <- x where there is a spike x (nearest)
    dw = < sum_s  F+(w) r1 (A2+ + A3+ o2) z M  -  F-(w) x (A2- + A3- r2) o1 M >

x are pre-spikes with the traces r1 (tau+) and r2 (tau_x); z are post-spikes with the traces o1 (tau-) and o2 (tau_y), computed from z
as r from x; s is an inner step, and <> the mean over the environments. All traces are read before the step's own spikes are added, so
a pre- and a post-spike in the same step change nothing. With ``causal``, r1 is read after the step's spikes are added, because in
these networks a pre-spike acts in its own step: without ``causal``, the very spike that made a neuron spike would get no credit.
A3+ = A3- = 0 gives the pair rule. F+ = ((high - w) / (high - low))^mu and F- = ((w - low) / (high - low))^mu make changes smaller
near a bound; with mu = 0 changes do not depend on the weight. w are the weights at the beginning of the call. A graded x is treated
as a rate.

M is a factor of all changes of step s (modulation); it is 1 without credit. With a credit d_s, such as an advantage, a synapse sums
its changes in an eligibility c that decays with tau_e, and dw = sum_s d_s c_s. A change of step s is part of c in all later steps, so
its factor in dw is M_s = d_s + e^(-dt/tau_e) M_(s+1), the credit filtered backwards in time. So one number per environment and step
replaces a c per synapse, and the result is the same.

`LocalRule` is the base class of rules that change a network's weights in this way.

Source: Song, Miller & Abbott (2000); triplets: Pfister & Gerstner (2006); mu: Guetig et al. (2003); eligibility: Florian
(2007), Izhikevich (2007).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, override

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from spiky_rl.config.options import RegistryError, Settings, check_unique, option
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.connections.linear import LinearConnection
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.learning._filters import reverse_keep
from spiky_rl.learning.base import LearningRule
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter


@dataclass(frozen=True)
class StdpWindow:
    """Parameters of a spike-timing rule; amplitudes are changes of weight per pair or triplet, times are in ms."""

    tau_plus: float = 20.0
    """Time constant of r1, the trace of pre-spikes that later post-spikes pair with."""
    tau_minus: float = 20.0
    """Time constant of o1, the trace of post-spikes that later pre-spikes pair with."""
    potentiation: float = 0.01
    """A2+"""
    depression: float = 0.0105
    """A2-"""
    tau_x: float = 101.0
    """Time constant of r2, the trace of pre-spikes in triplets."""
    tau_y: float = 125.0
    """Time constant of o2, the trace of post-spikes in triplets."""
    triplet_potentiation: float = 0.0
    """A3+"""
    triplet_depression: float = 0.0
    """A3-"""
    nearest: bool = False
    """Whether a spike pairs only with the latest earlier spike instead of all."""
    causal: bool = False
    """Whether a pre-spike counts as earlier than a post-spike of the same step; the pair then potentiates by the full A2+."""
    mu: float = 0.0
    """Exponent of F+ and F-; with 0, changes do not depend on the weight."""
    dt: float = 1.0
    """Inner time step in ms."""


PAIRS = StdpWindow()
"""Parameters of the pair rule, with potentiation and depression nearly in balance (Song, Miller & Abbott 2000)."""
_VISUAL_CORTEX = StdpWindow(tau_plus=16.8, tau_minus=33.7, potentiation=0.0)
TRIPLETS = {
    "all": replace(_VISUAL_CORTEX, depression=7.1e-3, tau_y=114.0, triplet_potentiation=6.5e-3),
    "nearest": replace(_VISUAL_CORTEX, depression=8e-3, tau_y=40.0, triplet_potentiation=5e-2, nearest=True),
}
"""Parameters of the triplet rule by the option ``neighbours``: Pfister & Gerstner's minimal models of the visual cortex."""


class InputTrace(Neuron):
    """Decaying trace of the input of earlier steps."""

    states = ("r",)

    class Options(Neuron.Options):
        tau: float = parameter(20.0, "time constant", low=1e-3, unit="ms", transform="decay")
        nearest: bool = option(False, "an event replaces the trace instead of adding to it")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        decayed = p.decay * s.r
        if self.options.nearest:
            return decayed, s.replace(r=ops.where(ops.abs(current) > 0.0, current, decayed))
        return decayed, s.replace(r=decayed + current)


def compute_trace(
    signal: Tensor, keep: Tensor | None, tau: float, dt: float, nearest: bool = False, backend: str = "auto"
) -> Tensor:
    """Compute the trace [S, B, C] of a signal before each step's own events.

    Args:
        signal: [S, B, C], S inner steps.
        keep: [S, B]; 0 resets the trace to zero.
        tau: Time constant in ms.
        dt: Inner step in ms.
        nearest: An event replaces the trace instead of adding to it.
    """
    neuron = InputTrace.from_options(tau=tau, nearest=nearest, dt=dt)
    params, current = (neuron.get_step_value("tau"),), signal.unsqueeze(1)
    trace, _ = dispatch.unroll(backend, neuron, SPIKELESS, current, 1, None, params, keep)
    return trace.squeeze(1)


@torch.no_grad()
def compute_modulation(
    credit: Tensor, keep: Tensor | None, tau: float, dt: float, backend: str = "auto"
) -> Tensor:
    """Compute the modulation M [S, B]: the factor of the changes of each step.

    Args:
        credit: d [S, B], the credit of each step.
        keep: [S, B]; 0 where an episode begins.
        tau: tau_e in ms.
        dt: Inner step in ms.
    """
    reversed_credit = credit.flip(0).unsqueeze(-1)
    later = compute_trace(reversed_credit, reverse_keep(keep), tau, dt, backend=backend)
    return (reversed_credit + later).flip(0).squeeze(-1)


@torch.no_grad()
def compute_weight_change(
    pre: Tensor,
    post: Tensor,
    keep: Tensor | None,
    weights: Tensor,
    window: StdpWindow,
    bounds: tuple[Tensor | float, Tensor | float] = (0.0, 1.0),
    modulation: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Compute the weight change dw [C, N] of a rollout.

    Args:
        pre: Pre-spikes [S, B, C], S inner steps in order.
        post: Post-spikes [S, B, N].
        keep: [S, B]; 0 where an episode begins with this step, which resets the traces. They start from zero.
        weights: [C, N], for weight dependence.
        window: Parameters of the rule.
        bounds: (low, high), numbers or tensors that broadcast to the weights; used for mu > 0 only.
        modulation: M [S, B]; None for 1.
    """

    def trace(signal: Tensor, tau: float) -> Tensor:
        return compute_trace(signal, keep, tau, window.dt, window.nearest, backend)

    def sum_changes(partner_trace: Tensor, events: Tensor, pair: float, triplet: float, tau: float) -> Tensor:
        """Return the sum over steps of ``events`` times the ``partner_trace`` of the other side times an amplitude.

        The amplitude is ``pair`` + ``triplet`` r, where r is the events' own trace with the time constant ``tau``.
        """
        if not triplet:
            return pair * correlate_events(partner_trace, events)
        amplitude = trace(events, tau).mul_(triplet).add_(pair)
        return correlate_events(partner_trace, amplitude.mul_(events))

    r1, o1 = trace(pre, window.tau_plus), trace(post, window.tau_minus)
    if window.causal:
        r1 = torch.where(pre != 0.0, pre, r1) if window.nearest else r1.add_(pre)
    if modulation is not None:
        r1.mul_(modulation.unsqueeze(-1))
        o1.mul_(modulation.unsqueeze(-1))
    up = sum_changes(r1, post, window.potentiation, window.triplet_potentiation, window.tau_y)
    down = sum_changes(o1, pre, window.depression, window.triplet_depression, window.tau_x).t()
    if window.mu:
        low, high = bounds
        up = up * ((high - weights) / (high - low)).clamp(min=0.0) ** window.mu
        down = down * ((weights - low) / (high - low)).clamp(min=0.0) ** window.mu
    return up - down


def correlate_events(trace: Tensor, events: Tensor) -> Tensor:
    """Return the sum over steps of ``trace`` [S, B, L] times ``events`` [S, B, E], averaged over environments: [L, E]."""
    return trace.flatten(0, 1).t() @ events.flatten(0, 1) / trace.shape[1]


NULL_TEXT = "null: the published value for this kind"
TRIPLET_FIELDS = ("triplet_potentiation", "triplet_depression", "tau_x", "tau_y")
WINDOW_FIELDS = ("potentiation", "depression", "tau_plus", "tau_minus", *TRIPLET_FIELDS)
"""Fields of `StdpWindow` that an agent may set."""
Normalisation = Literal["none", "subtractive", "multiplicative"]
NORMALISATION_TEXT = (
    "conserved quantity of a neuron's incoming weights: their sum (subtractive) or the sum of their absolute values"
    " (multiplicative)"
)


class LocalRule(LearningRule):
    """Rule that changes weights by pre- and post-spikes, without a gradient; the rest of the network learns by BPTT.

    Weights have signs, and potentiation increases them. Their absolute values are at most ``limit`` times the layer's largest initial
    weight; under Dale's law they also keep their signs. Biases do not change.
    """

    class Options(Settings):
        layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(check_unique)] = option(
            (), "indices of the layers with plastic incoming weights; empty: all"
        )
        kind: Literal["pair", "triplet"] = option("pair", "number of spikes in a change: two or three")
        neighbours: Literal["all", "nearest"] = option("all", "earlier spikes that a spike pairs with")
        same_step: Literal["causal", "nothing"] = option(
            "causal",
            "effect of a pre- and a post-spike in the same inner step: causal (the pre-spike counts as earlier) or nothing",
        )
        learning_rate: float = option(1.0, "factor of every change", low=0.0)
        potentiation: float | None = option(
            None, f"A2+, in units of the largest initial weight; {NULL_TEXT}", low=0.0
        )
        depression: float | None = option(
            None, f"A2-, in units of the largest initial weight; {NULL_TEXT}", low=0.0
        )
        tau_plus: float | None = option(
            None, f"time constant of r1, the trace of pre-spikes; {NULL_TEXT}", low=1e-3, unit="ms"
        )
        tau_minus: float | None = option(
            None, f"time constant of o1, the trace of post-spikes; {NULL_TEXT}", low=1e-3, unit="ms"
        )
        triplet_potentiation: float | None = option(
            None, f"A3+, in units of the largest initial weight; {NULL_TEXT}", low=0.0
        )
        triplet_depression: float | None = option(
            None, f"A3-, in units of the largest initial weight; {NULL_TEXT}", low=0.0
        )
        tau_x: float | None = option(
            None,
            f"time constant of r2, the trace of pre-spikes in triplets; {NULL_TEXT}",
            low=1e-3,
            unit="ms",
        )
        tau_y: float | None = option(
            None,
            f"time constant of o2, the trace of post-spikes in triplets; {NULL_TEXT}",
            low=1e-3,
            unit="ms",
        )
        mu: float = option(0.0, "weight dependence: 0 additive, 1 multiplicative", low=0.0)
        limit: float = option(
            1.0, "largest size of a weight, in units of the largest initial weight", low=1e-3
        )
        normalisation: Normalisation = option("none", NORMALISATION_TEXT)

        @model_validator(mode="after")
        def _check_kind(self) -> Self:
            if self.kind == "triplet":
                return self
            for name in TRIPLET_FIELDS:
                if (value := getattr(self, name)) is not None:
                    raise RegistryError(
                        f"{name}: {value!r} is not allowed with kind: pair, only with triplet"
                    )
            return self

    is_local = True

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.plastic_layers, self.learning_rate = options.layers, options.learning_rate
        self.limit, self.normalisation = options.limit, options.normalisation
        published = PAIRS if options.kind == "pair" else TRIPLETS[options.neighbours]
        given = {name: getattr(options, name) for name in WINDOW_FIELDS}
        given = {name: value for name, value in given.items() if value is not None}
        self.window = replace(
            published,
            nearest=options.neighbours == "nearest",
            causal=options.same_step == "causal",
            mu=options.mu,
            **given,
        )

    @override
    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        count = len(layers)
        for index in self.plastic_layers:
            if index >= count:
                raise RegistryError(f"layers: {index} is out of range; the layers are 0 to {count - 1}")
        self.plastic_layers = self.plastic_layers or tuple(range(count))
        links: list[LinearConnection] = []
        for index in self.plastic_layers:
            link = layers[index].connection
            if not isinstance(link, LinearConnection):
                kind = type(link).__module__.rpartition(".")[2]
                raise RegistryError(
                    f"layers: {index}: not available for a layer with the connection {kind!r}; allowed: layers with 'linear'"
                )
            link.requires_grad_(False)
            if self.normalisation == "multiplicative":
                self.register_buffer(f"sums_{index}", link.synapses().abs().sum(0))
            links.append(link)
        # a buffer, because a network from a checkpoint no longer has its initial weights
        self.register_buffer("sizes", torch.tensor([float(link.weight.abs().max()) for link in links]))
        self.sizes: Tensor  # largest initial absolute weight of each plastic layer

    @abstractmethod
    def modulation(
        self, credit: Tensor, keep: Tensor | None, layer: SpikingLayer, steps: int
    ) -> Tensor | None:
        """Return the modulation M [S, B] for a layer, or None for 1.

        Args:
            credit: [T, B].
            keep: [S, B]; 0 where an episode begins with this step.
            layer: Gives dt and the backend.
            steps: K, with S = T K.
        """

    @override
    @torch.no_grad()
    def apply_weight_change(
        self, layers: Sequence[SpikingLayer], signals: Sequence[Tensor], credit: Tensor, keep: Tensor | None
    ) -> None:
        steps = signals[-1].shape[1]
        if keep is not None:
            # an episode begins with the first inner step of its control step
            keep_inner = keep.new_ones(keep.shape[0], steps, keep.shape[1])
            keep_inner[:, 0] = keep
            keep = keep_inner.flatten(0, 1)
        for index, size in zip(self.plastic_layers, self.sizes, strict=True):
            layer = layers[index]
            pre, post = (
                signals[i].expand(-1, steps, -1, -1).flatten(0, 1)  # [S, B, C] and [S, B, N]
                for i in (index, index + 1)
            )
            modulation = self.modulation(credit, keep, layer, steps)
            self._change_layer(layer, index, size, pre, post, keep, modulation)

    def _change_layer(
        self,
        layer: SpikingLayer,
        index: int,
        size: Tensor,
        pre: Tensor,
        post: Tensor,
        keep: Tensor | None,
        modulation: Tensor | None,
    ) -> None:
        """Change the weights of a ``layer``, number ``index``, whose largest initial weight is ``size``.

        ``pre`` [S, B, C] and ``post`` [S, B, N] are its input and output, ``keep`` and ``modulation`` [S, B].
        """
        link = layer.connection
        assert isinstance(link, LinearConnection)
        # under Dale's law a connection stores sizes, and its mask the signs
        sign = torch.ones_like(link.weight) if link.mask is None else torch.where(link.mask < 0, -1.0, 1.0)
        exists = link.weight.new_ones(()) if link.mask is None else link.mask != 0
        weights = (link.weight.abs() * sign if link.dale else link.weight) * exists
        # above 0, since the weight dependence divides by the range; a layer whose initial weights are all 0 keeps them
        bound = (self.limit * size).clamp(min=1e-30)
        low, high = -bound, bound
        if link.dale:
            low, high = sign.clamp(max=0.0) * bound, sign.clamp(min=0.0) * bound
        window = replace(self.window, dt=layer.neuron.dt)
        delta = compute_weight_change(
            pre, post, keep, weights, window, (low, high), modulation, layer.backend
        )
        delta = self.learning_rate * size * _all_reduce_mean(delta) * exists
        if self.normalisation == "subtractive":
            # a neuron may have no synapse, as one of a NIR file with a row of zeros
            fan_in = (exists * torch.ones_like(delta)).sum(0).clamp(min=1.0)
            delta = (delta - delta.sum(0) / fan_in) * exists
        weights = (weights + delta).clamp(low, high)
        if self.normalisation == "multiplicative":
            # with a mask, the strength of a synapse is its weight times its factor in the mask
            strengths = weights.abs() if link.mask is None else (weights * link.mask).abs()
            sums = getattr(self, f"sums_{index}")
            weights = (weights * (sums / strengths.sum(0).clamp(min=1e-30))).clamp(low, high)
        link.weight.copy_(weights * sign if link.dale else weights)


def _all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of ``values`` over the ranks of a distributed run; the sum is computed in place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values
