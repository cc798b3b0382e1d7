"""Reward-modulated STDP: what spike timing would change waits in each synapse until reward says whether it was good.

    dc/dt = -c/tau_eligibility + STDP events,   dw = eta sum_t d_t c(end of control step t)

d is the credit of a control step's action, an advantage or a TD error, given by the host, within an episode. It has to have a
mean of about zero in every state, as an advantage has: what STDP does by itself is otherwise learned along with the reward
(Fremaux & Gerstner 2016). That is no gradient of the reward but a relative of one. All layers get the same credit.

Source: Florian (2007); Izhikevich (2007); computed as `spiky_rl.learning._traces` says.
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
