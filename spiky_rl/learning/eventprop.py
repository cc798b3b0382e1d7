"""EventProp for any ODE neuron: exact gradients of spike times, by adjoints that jump at spikes.

The forward pass is event-based: spikes are located inside the step and pass exponential synapses (see
`spiky_rl.learning._exact_spike_neuron`). The adjoint is derived from the neuron's own step by the tracer, like all kernels. For LIF
neurons this gives EventProp's equations, for other neurons the corresponding ones (AutoAdjoint).

There is no gradient for adding or removing spikes: a readout that counts spikes has none, silent neurons learn nothing, and
losses on a mean delete spikes. Therefore, if the mean spike count of a neuron per control step leaves the band from ``lowest`` to
``highest``, its current is corrected by ``regularization`` times the excess.

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
        highest: float = option(
            0.3, "upper end of the band: mean spikes per neuron and control step", low=0.0
        )

        @model_validator(mode="after")
        def _check_band(self) -> Self:
            if self.lowest > self.highest:
                raise RegistryError(
                    f"lowest: {self.lowest!r} is out of range; it must be at most highest, {self.highest!r}"
                )
            return self

    timed = ExactSpikeNeuron

    def __init__(self, options: Options) -> None:
        super().__init__(options, options.highest)
