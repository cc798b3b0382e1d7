"""STDP: a synapse grows where its input's spikes come before the neuron's own, and shrinks where they come after.

    dw = A2+ e^(-gap/tau+) for a pre-spike before a post-spike,   -A2- e^(-gap/tau-) for one after it

or, with triplets, which follow the rate at which pairs come, larger by what other spikes left (`spiky_rl.learning._traces` has
the equations). No error and no reward enters: layers find what their inputs do together, and only the readout, and layers
that are not named, learn the task. Changes of signed weights silence a layer where depression prevails and saturate it where
it does not; therefore each neuron's incoming weights keep their sum (``normalisation``), and its synapses compete.

Source: Song, Miller & Abbott (2000); Pfister & Gerstner (2006); normalisation: Miller & MacKay (1994).
"""

from typing import override

from torch import Tensor

from spiky_rl.learning._traces import LocalRule, Normalisation, normalisation
from spiky_rl.networks._layer import SpikingLayer


class StdpRule(LocalRule):
    """Spike-timing-dependent plasticity: pairs or triplets of spikes change a synapse."""

    class Options(LocalRule.Options):
        normalisation: Normalisation = normalisation("subtractive")

    @override
    def modulation(self, credit: Tensor, keep: Tensor | None, layer: SpikingLayer, steps: int) -> None:
        return None
