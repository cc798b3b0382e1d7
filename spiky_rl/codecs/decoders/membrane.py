"""Membrane: the potential of leaky readout neurons that never spike.

    V <- a V + (1 - a) W s_k in every inner step k,   a = exp(-dt/tau);   y = b + V_K,  b + mean_k(V_k)  or  b + max_k(V_k)

The potential is a real number, so an action is not limited to K + 1 levels; a stateful network carries it between control
steps. Source: Chen et al. (2024), ILC-SAN.
"""

from __future__ import annotations

from typing import Literal, override

from torch import Tensor
from torch.nn import Parameter

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.options import Settings, option
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.ops import SPIKELESS
from spiky_rl.kernels.stack import StackStage
from spiky_rl.neurons.base import DT, Neuron, Ops, Params, States, Value, parameter


class Membrane(Decoder):
    """Spikes [T, K, B, N] -> features [T, B, F]; state: the potentials [B, F]."""

    class Options(Settings):
        read: Literal["last", "mean", "max"] = option(
            "last", "feature from the potential: its last, mean or largest value in the control step"
        )
        tau: float = option(2.0, "time constant of the potential", low=1e-3, unit="ms")
        dt: float = DT

    def __init__(self, options: Options, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.which = options.read
        """The feature that is read from the potential: last, mean or max."""
        self.state_width = outputs
        self.potential = Potential.from_options(dt=options.dt, tau=options.tau)
        """Neuron that integrates the readout's output."""
        self.decay = self.potential.get_step_value("tau")

    @override
    def forward(
        self, spikes: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight = self.readout.weight
        # a weight that is no parameter may be computed by a hook, which `synapses` runs
        if self.quantiser is not None or not isinstance(weight, Parameter):
            weight = self.synapses()
        steps = spikes.shape[1]
        # [T, K, B, F]
        drive = dispatch.linear(self.backend, spikes, weight, None, self.binary, self.bfloat16_gradient)
        params = self.get_potential_parameters()
        v, new = dispatch.unroll(
            self.backend, self.potential, SPIKELESS, drive, steps, state, params, keep=keep
        )
        return self.decode_potentials(v), new

    def get_potential_parameters(self) -> tuple[float]:
        """Return the parameters of the potential's step."""
        return (self.decay,)

    def make_stage(self) -> StackStage:
        """Return readout and potential as a stage for backends that run all layers in one call."""
        return StackStage(
            map=self.readout,
            neuron=self.potential,
            parameters=self.get_potential_parameters,
            ops=SPIKELESS,
            binary=self.binary,
            biased=False,
            output_major=True,
        )

    def decode_potentials(self, potentials: Tensor) -> Tensor:
        """Map ``potentials`` [T, K, B, F] to features [T, B, F]."""
        if self.which == "last":
            v = potentials[:, -1]
        elif self.which == "mean":
            v = potentials.mean(1)
        else:
            v = potentials.amax(1)
        return v + self.readout.bias


class Potential(Neuron):
    """Leaky membrane that never spikes; its output is its potential."""

    states = ("v",)

    class Options(Neuron.Options):
        tau: float = parameter(2.0, "time constant", low=1e-3, unit="ms", transform="decay")

    options: Options
    graded = True

    @override
    def step(self, ops: Ops, current: Value, s: States, p: Params) -> tuple[Value, States]:
        v = p.decay * s.v + (1.0 - p.decay) * current
        return v, s.replace(v=v)
