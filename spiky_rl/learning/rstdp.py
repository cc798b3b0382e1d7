"""Reward-modulated STDP: each synapse accumulates changes by spike timing as an eligibility, and reward applies them.

    dc/dt = -c/tau_eligibility + STDP events,   dw = eta sum_t d_t c(end of control step t)

d is the credit of the action in a control step, an advantage or a TD error from the learner. Its mean must be about zero in every
state, like an advantage's; otherwise the effect of plain STDP is learned along with the reward (Fremaux & Gerstner 2016). The
rule is related to a gradient of the reward, but is not one. All layers get the same credit.

Source: Florian (2007); Izhikevich (2007). Computed as in `spiky_rl.learning._traces`.
"""

from typing import override

from torch import Tensor

from spiky_rl.config.options import option
from spiky_rl.learning._traces import LocalRule, compute_modulation
from spiky_rl.networks._layer import SpikingLayer


class Rstdp(LocalRule):
    """Reward-modulated spike-timing-dependent plasticity."""

    class Options(LocalRule.Options):
        tau_eligibility: float = option(500.0, "time constant of the eligibility", low=1e-3, unit="ms")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.tau = options.tau_eligibility

    @override
    def modulation(self, credit: Tensor, keep: Tensor | None, layer: SpikingLayer, steps: int) -> Tensor:
        due = credit.new_zeros(credit.shape[0], steps, credit.shape[1])
        due[:, -1] = credit
        return compute_modulation(due.flatten(0, 1), keep, self.tau, layer.neuron.dt, layer.backend)
