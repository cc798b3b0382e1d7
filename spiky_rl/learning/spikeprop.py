"""SpikeProp: every neuron sends only its first spike, and errors change the time of this spike.

    dt/dw_i = -eps(t - t_i) / u'(t),   dt/dt_i = w_i eps'(t - t_i) / u'(t)

eps is the response of the potential to a spike; for the neuron `lif` with tau = ``tau_synapse`` it is the paper's alpha function.
After its spike a neuron is silent until its state is reset: in a stateless network for the rest of the control step, in a stateful
network for the rest of the episode. The spike is located within the step and the gradient is exact (see
`spiky_rl.learning._exact_spike_neuron`); ``slope`` is the lower bound of u'. As in `eventprop`, neurons with fewer than ``lowest``
spikes per control step have their current raised, by ``regularization`` times the deficit.

`spiky_rl.exact.spike_times` is SpikeProp in continuous time, with delayed sub-synapses as in the paper.

Source: Bohte, Kok & La Poutre (2002).
"""

from __future__ import annotations

from spiky_rl.config.options import option
from spiky_rl.learning._exact import ExactGradientRule, declare_regularization, declare_slope
from spiky_rl.learning._exact_spike_neuron import SingleSpikeNeuron


class Spikeprop(ExactGradientRule):
    """SpikeProp: exact gradients of every neuron's first spike time."""

    class Options(ExactGradientRule.Options):
        slope: float = declare_slope(0.1)
        regularization: float = declare_regularization("with too few spikes")
        lowest: float = option(
            0.3,
            "mean spikes per neuron and control step below which the current is raised",
            low=0.0,
            high=1.0,
        )

    timed = SingleSpikeNeuron

    def __init__(self, options: Options) -> None:
        super().__init__(options, highest=1.0)
