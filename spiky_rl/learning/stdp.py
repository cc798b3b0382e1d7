"""STDP: a synapse grows if its input spikes before the neuron, and shrinks if its input spikes after the neuron.

    dw = A2+ e^(-gap/tau+) for a pre-spike before a post-spike,   -A2- e^(-gap/tau-) for one after it

With triplets, the change also depends on a third spike and so on the firing rate (equations in `spiky_rl.learning._traces`). There
is no error and no reward: layers learn correlations of their inputs, and only the readout and layers outside ``layers`` learn the
task. Since changes of signed weights either silence or saturate a layer, each neuron's incoming weights keep their sum
(``normalisation``), so that its synapses compete.

Source: Song, Miller & Abbott (2000); Pfister & Gerstner (2006); normalisation: Miller & MacKay (1994).
"""

from typing import override

from torch import Tensor

from spiky_rl.config.options import option
from spiky_rl.learning._traces import NORMALISATION_TEXT, LocalRule, Normalisation
from spiky_rl.networks._layer import SpikingLayer


class StdpRule(LocalRule):
    """Spike-timing-dependent plasticity: pairs or triplets of spikes change a synapse."""

    class Options(LocalRule.Options):
        normalisation: Normalisation = option("subtractive", NORMALISATION_TEXT)

    @override
    def modulation(self, credit: Tensor, keep: Tensor | None, layer: SpikingLayer, steps: int) -> None:
        return None
