"""EventProp, for any neuron that is an ODE: exact gradients of spike times, by adjoints that jump at spikes.

The forward pass is event-based itself: spikes are located inside the step and travel through synapses of their own (see
`spiky_rl.learning._timed`). Its adjoint is derived from the neuron's own step, by the tracer as all kernels are, which
gives EventProp's equations for LIF neurons and their like for all others (AutoAdjoint).

No gradient says that a spike should be or not be: a readout that counts spikes gives none, silent neurons learn nothing, and
losses that read a mean delete spikes. So a neuron whose mean count of spikes per control step leaves the band from ``lowest``
to ``highest`` has its current pushed back, by ``regularization`` times the excess.

Sources: Wunderlich & Pehle (2021); Nowotny & Knight (2025), Auto-adjoint; losses: Nowotny, Turner & Knight (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiky_rl.config.registry import Option, RegistryError
from spiky_rl.learning._exact import Exact, declare
from spiky_rl.learning._timed import Timed


class Eventprop(Exact):
    """See the module's text."""

    options = {
        **declare(
            0.005,
            "leave the band",
            Option(0.3, "of the band: mean spikes per neuron and control step", low=0.0),
        ),
        "highest": Option(0.3, "of the band", low=0.0),
    }
    timed = Timed

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        if options["lowest"] > options["highest"]:
            raise RegistryError(
                f"{path}.lowest: {options['lowest']!r} is out of range; it must be at most highest, {options['highest']!r}"
            )
