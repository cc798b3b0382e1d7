"""SpikeProp: every neuron sends one spike, its first, and errors change when it comes.

    dt/dw_i = -eps(t - t_i) / u'(t),   dt/dt_i = w_i eps'(t - t_i) / u'(t)

eps is the response of the potential to a spike: the paper's alpha function where the neuron is `lif` and its tau is
``tau_synapse``. A neuron that has spiked is silent until it is put at rest: in a stateless network for the rest of the control
step, in a stateful one for the rest of the episode. The spike is located within the step and the gradient is exact, as
`spiky_rl.learning.timed` says; ``slope`` bounds what it is divided by. Neurons that never spike have their current raised, as
those of `eventprop`, by ``regularization`` times what they are short of ``lowest`` spikes per control step on the mean.

`spiky_rl.learning.spike_times` is SpikeProp in continuous time, with delayed sub-synapses as in the paper.

Source: Bohte, Kok & La Poutre (2002).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spiky_rl.learning.base import Rule
from spiky_rl.learning.eventprop import banded
from spiky_rl.learning.timed import Once
from spiky_rl.neurons.base import Neuron
from spiky_rl.registry import Option


class Spikeprop(Rule):
    """See the module's text."""

    options = {
        "tau_synapse": Option(5.0, "time constant of the synapses", low=1e-3, unit="ms"),
        "slope": Option(
            0.1,
            "least slope of the distance to threshold that a gradient is divided by",
            low=1e-9,
            unit="1/ms",
        ),
        "regularization": Option(0.05, "push of neurons that spike too rarely; 0: none", low=0.0),
        "lowest": Option(0.3, "mean spikes per neuron and control step", low=0.0, high=1.0),
    }
    plain = False
    counts = False
    no_way_through = ("rate", "population_vector")

    def __init__(self, tau_synapse: float, slope: float, regularization: float, lowest: float) -> None:
        super().__init__()
        self.tau_synapse, self.slope = tau_synapse, slope
        self.regularization, self.lowest = regularization, lowest

    def neuron(self, neuron: Neuron) -> Neuron:  # noqa: D102
        return Once.wrap(neuron, "spikeprop", tau_synapse=self.tau_synapse, slope=self.slope)

    def after(
        self, layer: Any, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None
    ) -> Tensor:  # noqa: D102
        if not torch.is_grad_enabled():
            return output
        return banded(output, current, self.regularization, self.lowest, 1.0)
