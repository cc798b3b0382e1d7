"""EventProp, for any neuron that is an ODE: exact gradients of spike times, by adjoints that jump at spikes.

The forward pass is event-based itself: spikes are located inside the step and travel through synapses of their own (see
`spiky_rl.learning.timed`). Its adjoint is derived from the neuron's own step, by the tracer as all kernels are, which
gives EventProp's equations for LIF neurons and their like for all others (AutoAdjoint).

No gradient says that a spike should be or not be: a readout that counts spikes gives none, silent neurons learn nothing, and
losses that read a mean delete spikes. So a neuron whose mean count of spikes per control step leaves the band from ``lowest``
to ``highest`` has its current pushed back, by ``regularization`` times the excess.

Sources: Wunderlich & Pehle (2021); Nowotny & Knight (2025), Auto-adjoint; losses: Nowotny, Turner & Knight (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spiky_rl.learning.base import Rule
from spiky_rl.learning.timed import Timed
from spiky_rl.neurons.base import Neuron
from spiky_rl.registry import Option, RegistryError


class Eventprop(Rule):
    """See the module's text."""

    options = {
        "tau_synapse": Option(5.0, "time constant of the synapses", low=1e-3, unit="ms"),
        "slope": Option(
            0.005,
            "least slope of the distance to threshold that a gradient is divided by",
            low=1e-9,
            unit="1/ms",
        ),
        "regularization": Option(0.05, "push of neurons that leave the band; 0: none", low=0.0),
        "lowest": Option(0.3, "of the band: mean spikes per neuron and control step", low=0.0),
        "highest": Option(0.3, "of the band", low=0.0),
    }
    plain = False
    counts = False
    no_way_through = ("rate", "population_vector")

    def __init__(
        self, tau_synapse: float, slope: float, regularization: float, lowest: float, highest: float
    ) -> None:
        super().__init__()
        self.tau_synapse, self.slope = tau_synapse, slope
        self.regularization, self.lowest, self.highest = regularization, lowest, highest

    @classmethod
    def validate(cls, path: str, options: Mapping[str, Any]) -> None:  # noqa: D102
        if options["lowest"] > options["highest"]:
            raise RegistryError(
                f"{path}.lowest: {options['lowest']!r} is out of range; it must be at most highest, {options['highest']!r}"
            )

    def neuron(self, neuron: Neuron) -> Neuron:  # noqa: D102
        return Timed.wrap(neuron, "eventprop", tau_synapse=self.tau_synapse, slope=self.slope)

    def after(
        self, layer: Any, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None
    ) -> Tensor:  # noqa: D102
        return banded(output, current, self.regularization, self.lowest, self.highest)


def banded(output: Tensor, current: Tensor, strength: float, lowest: float, highest: float) -> Tensor:
    """The output [T, K, B, N] as it is; neurons whose mean count leaves the band push their current [T, K or 1, B, N] back."""
    if not strength or not current.requires_grad:
        return output
    return _Band.apply(output, current, strength, lowest, highest)  # type: ignore[return-value]


class _Band(torch.autograd.Function):
    """The output as it is; its mean count per neuron pushes the current."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, current: Tensor, strength: float, lowest: float, highest: float
    ) -> Tensor:
        count = output.sum(1).mean((0, 1))
        excess = (count - highest).clamp(min=0.0) - (lowest - count).clamp(min=0.0)
        ctx.save_for_backward(strength * excess)
        ctx.shape = current.shape
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (push,) = ctx.saved_tensors
        return grads[0], (push / (ctx.shape[0] * ctx.shape[2])).expand(ctx.shape), None, None, None
