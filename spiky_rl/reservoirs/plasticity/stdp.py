"""STDP with homeostasis: excitatory synapses follow the order of spikes, and neurons keep a target rate.

    trace y <- e^(-dt/tau) y + z, of every neuron
    w_ij <- w_ij + eta (A+ y_i z_j - A- z_i y_j),   i -> j, with the traces before this inner step
    then 0 <= w_ij <= limit w0, and the incoming excitatory weights of every neuron are scaled to their initial sum
    b_j <- b_j + eta_intrinsic (target dt - z_j),   intrinsic plasticity

A presynaptic spike before a postsynaptic one strengthens the synapse; the reverse order weakens it. Additive STDP alone is unstable:
the bound and the constant sum of incoming weights, to which a weight may be scaled beyond the bound, make synapses compete, and
intrinsic plasticity shifts each neuron's excitability so that its rate stays at the target. Homeostasis acts on a faster time
scale than STDP. All environments share the synapses. Changes of weights are averaged over at most ``environments`` of them, changes of the
excitability over all; both are applied after every control step.

Inhibitory synapses do not change. Weights are in units of their initial mean, currents in rheobases.

Source: Song, Miller & Abbott (2000), additive STDP; Lazar, Pipa & Triesch (2009), SORN: normalisation and intrinsic plasticity.
"""

from __future__ import annotations

from typing import override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.neurons.base import Neuron, Ops, Params, States, Value, parameter
from spiky_rl.reservoirs.plasticity.base import Plasticity


class StdpPlasticity(Plasticity):
    """Spike-timing-dependent plasticity with homeostasis of the firing rates."""

    class Options(Settings):
        rate: float = option(0.001, "eta: change per pair of spikes, in initial mean weights", low=0.0)
        potentiation: float = option(1.0, "A+: gain if the presynaptic spike comes first", low=0.0)
        depression: float = option(1.05, "A-: loss if the postsynaptic spike comes first", low=0.0)
        tau: float = option(20.0, "time constant of the traces", low=1e-3, unit="ms")
        limit: float = option(
            4.0,
            "bound of a weight, in initial mean weights, before its neuron's weights are scaled to their sum",
            low=1.0,
        )
        intrinsic: float = option(
            0.003, "eta_intrinsic: change of the excitability per spike, in rheobases", low=0.0
        )
        target_rate: float = option(20.0, "target rate of the intrinsic plasticity", low=0.1, unit="Hz")
        environments: int = option(64, "maximum number of environments that the synapses learn from", low=1)

    def __init__(
        self,
        options: Options,
        weight: Tensor,
        bias: Tensor,
        inhibitory: Tensor,
        unit: float,
        dt: float,
    ) -> None:
        super().__init__()
        self.potentiation = options.rate * options.potentiation
        self.depression = options.rate * options.depression
        self.trace_neuron = SpikeTrace.from_options(dt=dt, tau=options.tau)
        self.environments = options.environments
        self.intrinsic, self.target = options.intrinsic * unit, options.target_rate * dt / 1000.0
        self.state_sizes = (len(bias),)
        # buffers, because they depend on the wiring, which a checkpoint may replace by another seed's
        self.register_buffer("plastic", (weight != 0) & ~inhibitory[:, None])
        self.plastic: Tensor
        size = weight[self.plastic].mean() if bool(self.plastic.any()) else torch.ones(())
        self.register_buffer("size", size)
        self.size: Tensor
        """Mean initial weight of the plastic synapses."""
        self.register_buffer("sums", (weight * self.plastic).sum(0))
        self.sums: Tensor
        """Initial sum of the plastic weights of every neuron, [N]."""
        self.limit = options.limit
        self._change: Tensor | None = None
        """Change of the weights [N, N] since the last `adapt`, in `size`; None for none."""
        self._shortfall: Tensor | None = None
        """Spikes that each neuron lacks of its target since the last `adapt`, [N]."""

    @override
    def observe(self, spikes: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        traces, after = dispatch.unroll(
            self.backend,
            self.trace_neuron,
            SPIKELESS,
            spikes[None],
            len(spikes),
            state,
            (self.trace_neuron.get_step_value("tau"),),
        )
        # rows are presynaptic
        y = traces[0][:, : self.environments].flatten(0, 1)
        z = spikes[:, : self.environments].flatten(0, 1)
        pairs = y.t() @ z
        change = self.potentiation * pairs - self.depression * pairs.t()
        change = change / min(spikes.shape[1], self.environments)
        shortfall = (self.target - spikes.mean(1)).sum(0)
        self._change = change if self._change is None else self._change + change
        self._shortfall = shortfall if self._shortfall is None else self._shortfall + shortfall
        return after

    @override
    def adapt(self, weight: Tensor, bias: Tensor) -> None:
        if self._change is None or self._shortfall is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # the ranks of a distributed run share one reservoir
            for total in (self._change, self._shortfall):
                torch.distributed.all_reduce(total)
                total /= torch.distributed.get_world_size()
        changed = (weight + self.size * self._change).clamp(min=0.0)
        changed = torch.minimum(changed, self.size * self.limit)
        changed = changed * self.plastic
        sums = changed.sum(0)
        scale = torch.where(sums > 0, self.sums / sums.clamp(min=1e-30), torch.ones_like(sums))
        changed = changed * scale
        weight.copy_(torch.where(self.plastic, changed, weight))
        bias += self.intrinsic * self._shortfall
        self._change = self._shortfall = None


class SpikeTrace(Neuron):
    """A trace of spikes, y <- e^(-dt/tau) y + z; its output is y before the inner step."""

    states = ("y",)

    class Options(Neuron.Options):
        tau: float = parameter(20.0, "time constant", low=1e-3, unit="ms", transform="decay")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        return s.y, s.replace(y=p.decay * s.y + current)
