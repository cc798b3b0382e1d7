"""Spike timing over a whole rollout: products of spikes and of the traces that they leave, no trace per synapse.

    r <- e^(-dt/tau) r in every inner step, then r <- r + x (all pairs), or r <- x where there is a spike x (nearest)
    dw = < sum_s  F+(w) r1 (A2+ + A3+ o2) z M  -  F-(w) x (A2- + A3- r2) o1 M >

x are pre-spikes with traces r1 (tau+) and r2 (tau_x), z post-spikes with traces o1 (tau-) and o2 (tau_y), <> the mean over the
environments. All traces are read before the step's own spikes enter them, so a coincidence changes nothing; or, where input
acts in its own step, as in our networks, r1 alone is read after them (``causal``): the spike that made a neuron spike would
otherwise be the only one without credit. A3 = 0 leaves the rule of pairs. F+ = ((high - w) / (high - low))^mu and
F- = ((w - low) / (high - low))^mu make the change smaller towards a bound; mu = 0: additive. Weights count as they are when the
call begins. A graded x is a rate: its traces are its own.

M is what the events of a moment are worth; without reward, 1. With reward, a synapse has an eligibility c that decays with
tau_e and takes up those events, and dw = sum_s d_s c_s. As c is linear in the events, so is dw, with
M_s = d_s + e^(-dt/tau_e) M_(s+1): credit is filtered backwards, one number per environment, and that is exact.

`LocalRule` is what the rules that change a network's weights in this way share.

Source: Song, Miller & Abbott (2000); triplets: Pfister & Gerstner (2006); mu: Guetig et al. (2003); eligibility: Florian
(2007), Izhikevich (2007).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, override

import torch
from pydantic import Field, model_validator
from torch import Tensor

from spiky_rl.config.options import RegistryError, Settings, option
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
    """The numbers of a spike-timing rule; amplitudes are changes of weight per pair or triplet, times are in ms."""

    tau_plus: float = 20.0
    """Time constant of what a pre-spike leaves, for post-spikes after it."""
    tau_minus: float = 20.0
    """Time constant of what a post-spike leaves, for pre-spikes after it."""
    potentiation: float = 0.01
    """A2+"""
    depression: float = 0.0105
    """A2-"""
    tau_x: float = 101.0
    """Time constant of what a pre-spike leaves for later ones."""
    tau_y: float = 125.0
    """Time constant of what a post-spike leaves for later ones."""
    triplet_potentiation: float = 0.0
    """A3+"""
    triplet_depression: float = 0.0
    """A3-"""
    nearest: bool = False
    """Whether a spike pairs with the last one alone, instead of all before it."""
    causal: bool = False
    """Whether a pre-spike comes before the post-spike of its own step, instead of with it: potentiation by A2+ in full."""
    mu: float = 0.0
    """Exponent of the distance to a bound; 0: additive."""
    dt: float = 1.0
    """Inner time step."""


PAIRS = StdpWindow()
"""Potentiation and depression nearly in balance (Song, Miller & Abbott 2000)."""
TRIPLETS = {
    "all": StdpWindow(16.8, 33.7, 0.0, 7.1e-3, tau_y=114.0, triplet_potentiation=6.5e-3),
    "nearest": StdpWindow(16.8, 33.7, 0.0, 8e-3, tau_y=40.0, triplet_potentiation=5e-2, nearest=True),
}
"""Pfister & Gerstner's minimal sets for the visual cortex, by the neighbours that a spike pairs with."""


class InputTrace(Neuron):
    """A decaying trace of earlier input; the input of the step itself does not belong to it yet."""

    states = ("r",)

    class Options(Neuron.Options):
        tau: float = parameter(20.0, "time constant", low=1e-3, unit="ms", transform="decay")
        nearest: bool = option(False, "an event replaces what was there")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        left = p.decay * s.r
        if self.options.nearest:
            return left, s.replace(r=ops.where(ops.abs(current) > 0.0, current, left))
        return left, s.replace(r=left + current)


def compute_trace(
    signal: Tensor, keep: Tensor | None, tau: float, dt: float, nearest: bool = False, backend: str = "auto"
) -> Tensor:
    """The trace [S, B, C] of a signal, before each step's own events.

    Args:
        signal: [S, B, C], S inner steps.
        keep: [S, B]; from zero where it is 0.
        tau: Time constant in ms.
        dt: Inner step in ms.
        nearest: An event replaces what was there.
        backend: What runs it.
    """
    neuron = InputTrace.from_options(tau=tau, nearest=nearest, dt=dt)
    parameters, current = (neuron.get_step_value("tau"),), signal.unsqueeze(1)
    return dispatch.unroll(backend, neuron, SPIKELESS, current, 1, None, parameters, keep)[0].squeeze(1)


@torch.no_grad()
def compute_modulation(
    credit: Tensor, keep: Tensor | None, tau: float, dt: float, backend: str = "auto"
) -> Tensor:
    """The modulation M [S, B] of the events of each step.

    Args:
        credit: d [S, B], which falls due in each step.
        keep: [S, B]; 0 where an episode begins.
        tau: tau_e in ms.
        dt: Inner step in ms.
        backend: What runs it.
    """
    flipped = credit.flip(0).unsqueeze(-1)
    return (
        (flipped + compute_trace(flipped, reverse_keep(keep), tau, dt, backend=backend)).flip(0).squeeze(-1)
    )


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
    """dw [C, N].

    Args:
        pre: [S, B, C]; S inner steps in the order of time.
        post: [S, B, N].
        keep: [S, B]; 0 where an episode begins with this step: traces start from zero. They do at the first step, too.
        weights: [C, N], for weight dependence.
        window: The rule.
        bounds: low and high, numbers or what broadcasts to the weights; read for mu > 0 only.
        modulation: M [S, B]; None: 1.
        backend: What runs the traces.
    """

    def traced(signal: Tensor, tau: float) -> Tensor:
        return compute_trace(signal, keep, tau, window.dt, window.nearest, backend)

    def paired(left: Tensor, events: Tensor, pair: float, triplet: float, tau: float) -> Tensor:
        if not triplet:
            return pair * correlate_events(left, events)
        return correlate_events(left, traced(events, tau).mul_(triplet).add_(pair).mul_(events))

    r1, o1 = traced(pre, window.tau_plus), traced(post, window.tau_minus)
    if window.causal:
        r1 = torch.where(pre != 0.0, pre, r1) if window.nearest else r1.add_(pre)
    if modulation is not None:
        r1, o1 = (left.mul_(modulation.unsqueeze(-1)) for left in (r1, o1))
    up = paired(r1, post, window.potentiation, window.triplet_potentiation, window.tau_y)
    down = paired(o1, pre, window.depression, window.triplet_depression, window.tau_x).t()
    if window.mu:
        low, high = bounds
        up = up * ((high - weights) / (high - low)).clamp(min=0.0) ** window.mu
        down = down * ((weights - low) / (high - low)).clamp(min=0.0) ** window.mu
    return up - down


def correlate_events(left: Tensor, events: Tensor) -> Tensor:
    """sum over steps of ``left`` [S, B, L] times ``events`` [S, B, E], mean over environments: [L, E]."""
    return left.flatten(0, 1).t() @ events.flatten(0, 1) / left.shape[1]


KIND = "nothing: the kind's"
OF_TRIPLETS = ("triplet_potentiation", "triplet_depression", "tau_x", "tau_y")
OWN = ("potentiation", "depression", "tau_plus", "tau_minus", *OF_TRIPLETS)
"""Numbers of the window that an agent may set."""
Normalisation = Literal["none", "subtractive", "multiplicative"]


def normalisation(default: Normalisation) -> Any:
    """Declare what becomes of a neuron's incoming weights after a change, with its ``default``."""
    meaning = "what is kept of a neuron's incoming weights: subtractive their sum, multiplicative the sum of their sizes"
    return option(default, meaning)


class LocalRule(LearningRule):
    """Changes weights by the spikes on their two sides, and never by a gradient; the rest of the network has BPTT's.

    Weights have signs here, and potentiation moves them up: within -limit and limit times the layer's largest initial
    weight, and under Dale's law within zero and that. Biases stay as they are.
    """

    class Options(Settings):
        layers: tuple[Annotated[int, Field(ge=0)], ...] = option(
            (), "indices of the layers whose incoming weights it changes; empty: all"
        )
        kind: Literal["pair", "triplet"] = option("pair", "what a change takes: two spikes, or three")
        neighbours: Literal["all", "nearest"] = option("all", "earlier spikes that a spike pairs with")
        same_step: Literal["causal", "nothing"] = option(
            "causal",
            "what a pre- and a post-spike of one inner step are: causal, as input acts in its own step, or nothing",
        )
        learning_rate: float = option(1.0, "factor of every change", low=0.0)
        potentiation: float | None = option(None, f"A2+, in largest initial weights; {KIND}", low=0.0)
        depression: float | None = option(None, f"A2-, in largest initial weights; {KIND}", low=0.0)
        tau_plus: float | None = option(
            None, f"time constant of r1, what a pre-spike leaves; {KIND}", low=1e-3, unit="ms"
        )
        tau_minus: float | None = option(
            None, f"time constant of o1, what a post-spike leaves; {KIND}", low=1e-3, unit="ms"
        )
        triplet_potentiation: float | None = option(None, f"A3+, in largest initial weights; {KIND}", low=0.0)
        triplet_depression: float | None = option(None, f"A3-, in largest initial weights; {KIND}", low=0.0)
        tau_x: float | None = option(
            None, f"time constant of r2, the pre-spikes of a triplet; {KIND}", low=1e-3, unit="ms"
        )
        tau_y: float | None = option(
            None, f"time constant of o2, the post-spikes of a triplet; {KIND}", low=1e-3, unit="ms"
        )
        mu: float = option(0.0, "weight dependence: 0 additive, 1 multiplicative", low=0.0)
        limit: float = option(1.0, "largest size of a weight, in largest initial weights", low=1e-3)
        normalisation: Normalisation = normalisation("none")

        @model_validator(mode="after")
        def _goes_with_the_kind(self) -> Self:
            for name in OF_TRIPLETS if self.kind == "pair" else ():
                if (value := getattr(self, name)) is not None:
                    raise RegistryError(
                        f"{name}: {value!r} means nothing to pairs; it goes with kind: triplet"
                    )
            return self

    local = True

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.chosen, self.rate = options.layers, options.learning_rate
        self.limit, self.normalisation = options.limit, options.normalisation
        published = PAIRS if options.kind == "pair" else TRIPLETS[options.neighbours]
        own = {name: value for name in OWN if (value := getattr(options, name)) is not None}
        nearest, causal = options.neighbours == "nearest", options.same_step == "causal"
        self.window = replace(published, nearest=nearest, causal=causal, mu=options.mu, **own)

    @override
    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        count = len(layers)
        for index in self.chosen:
            if index >= count:
                raise RegistryError(f"layers: {index} is out of range; the layers are 0 to {count - 1}")
        self.chosen = self.chosen or tuple(range(count))
        links: list[LinearConnection] = []
        for index in self.chosen:
            link = layers[index].connection
            if not isinstance(link, LinearConnection):
                kind = type(link).__module__.rpartition(".")[2]
                raise RegistryError(
                    f"layers: the connection of layer {index} is {kind!r}, and spike timing changes 'linear' ones only;"
                    " name the layers that have them"
                )
            link.requires_grad_(False)
            if self.normalisation == "multiplicative":
                self.register_buffer(f"sums_{index}", link.synapses().abs().sum(0))
            links.append(link)
        # of the first weights, which a checkpoint's network no longer has
        self.register_buffer("sizes", torch.tensor([float(link.weight.abs().max()) for link in links]))
        self.sizes: Tensor

    @abstractmethod
    def modulation(
        self, credit: Tensor, keep: Tensor | None, layer: SpikingLayer, steps: int
    ) -> Tensor | None:
        """M [S, B] of ``credit`` [T, B] and ``keep`` [S, B] in a ``layer``, S = T ``steps``; None: that of all events is the same."""

    @override
    @torch.no_grad()
    def apply_weight_change(
        self, layers: Sequence[SpikingLayer], signals: Sequence[Tensor], credit: Tensor, keep: Tensor | None
    ) -> None:
        steps = signals[-1].shape[1]
        if keep is not None:
            starts = keep.new_ones(keep.shape[0], steps, keep.shape[1])
            starts[:, 0] = keep
            keep = starts.flatten(0, 1)
        for index, size in zip(self.chosen, self.sizes, strict=True):
            layer, link = layers[index], layers[index].connection
            assert isinstance(link, LinearConnection)
            pre, post = (s.expand(-1, steps, -1, -1).flatten(0, 1) for s in signals[index : index + 2])
            sign, places = _dale_signs(link), (
                link.weight.new_ones(()) if link.mask is None else link.mask != 0
            )
            weights = (link.weight.abs() * sign if link.dale else link.weight) * places
            top = self.limit * size
            bounds = (sign.clamp(max=0.0) * top, sign.clamp(min=0.0) * top) if link.dale else (-top, top)
            window = replace(self.window, dt=layer.neuron.dt)
            modulation = self.modulation(credit, keep, layer, steps)
            delta = compute_weight_change(pre, post, keep, weights, window, bounds, modulation, layer.backend)
            delta = self.rate * size * _all_reduce_mean(delta) * places
            if self.normalisation == "subtractive":
                delta = (delta - delta.sum(0) / (places * torch.ones_like(delta)).sum(0)) * places
            weights = (weights + delta).clamp(*bounds)
            if self.normalisation == "multiplicative":
                strengths = weights.abs() if link.mask is None else (weights * link.mask).abs()
                sums = getattr(self, f"sums_{index}")
                weights = (weights * (sums / strengths.sum(0).clamp(min=1e-30))).clamp(*bounds)
            link.weight.copy_(weights * sign if link.dale else weights)


def _dale_signs(link: LinearConnection) -> Tensor:
    """Sign of every synapse under Dale's law; without it 1."""
    return torch.ones_like(link.weight) if link.mask is None else torch.where(link.mask < 0, -1.0, 1.0)


def _all_reduce_mean(values: Tensor) -> Tensor:
    """The mean over the ranks of a distributed run, which have the same weights."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values
