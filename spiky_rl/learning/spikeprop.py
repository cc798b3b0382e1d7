"""SpikeProp: every neuron sends one spike, its first, and errors change when it comes.

    dt/dw_i = -eps(t - t_i) / u'(t),   dt/dt_i = w_i eps'(t - t_i) / u'(t)

eps is the response of the potential to a spike: the paper's alpha function where the neuron is `lif` and its tau is
``tau_synapse``. A neuron that has spiked is silent until it is put at rest: in a stateless network for the rest of the control
step, in a stateful one for the rest of the episode. The spike is located within the step and the gradient is exact, as
`spiky_rl.learning._exact_spike_neuron` says; ``slope`` bounds what it is divided by. Neurons that never spike have their current raised, as
those of `eventprop`, by ``regularization`` times what they are short of ``lowest`` spikes per control step on the mean.

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
        regularization: float = declare_regularization("spike too rarely")
        lowest: float = option(0.3, "mean spikes per neuron and control step", low=0.0, high=1.0)

    timed = SingleSpikeNeuron

    def __init__(self, options: Options) -> None:
        super().__init__(options, highest=1.0)
