"""EventProp, for any neuron that is an ODE: exact gradients of spike times, by adjoints that jump at spikes.

The forward pass is event-based itself: spikes are located inside the step and travel through synapses of their own (see
`spiky_rl.learning._exact_spike_neuron`). Its adjoint is derived from the neuron's own step, by the tracer as all kernels are, which
gives EventProp's equations for LIF neurons and their like for all others (AutoAdjoint).

No gradient says that a spike should be or not be: a readout that counts spikes gives none, silent neurons learn nothing, and
losses that read a mean delete spikes. So a neuron whose mean count of spikes per control step leaves the band from ``lowest``
to ``highest`` has its current pushed back, by ``regularization`` times the excess.

Sources: Wunderlich & Pehle (2021); Nowotny & Knight (2025), Auto-adjoint; losses: Nowotny, Turner & Knight (2022).
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from spiky_rl.config.options import RegistryError, option
from spiky_rl.learning._exact import ExactGradientRule
from spiky_rl.learning._exact_spike_neuron import ExactSpikeNeuron


class Eventprop(ExactGradientRule):
    """EventProp: exact gradients of spike times through event-based adjoints."""

    class Options(ExactGradientRule.Options):
        lowest: float = option(0.3, "lower end of the band: mean spikes per neuron and control step", low=0.0)
        highest: float = option(0.3, "upper end of the band, in the same unit", low=0.0)

        @model_validator(mode="after")
        def _is_a_band(self) -> Self:
            if self.lowest > self.highest:
                raise RegistryError(
                    f"lowest: {self.lowest!r} is out of range; it must be at most highest, {self.highest!r}"
                )
            return self

    timed = ExactSpikeNeuron

    def __init__(self, options: Options) -> None:
        super().__init__(options, options.highest)
