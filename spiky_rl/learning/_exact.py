"""Base class of rules with exact gradients of spike times: no surrogate, and a regularisation of spike counts."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.learning._exact_spike_neuron import ExactSpikeNeuron
from spiky_rl.learning.base import LearningRule, OutputHook
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron


def declare_slope(default: float) -> Any:
    """Declare the option ``slope``, in 1/ms."""
    description = (
        "lower bound of the slope of the distance to the threshold; gradients are divided by this slope"
    )
    return option(default, description, low=1e-9, unit="1/ms")


def declare_regularization(neurons_text: str) -> Any:
    """Declare the option ``regularization``; ``neurons_text`` says which neurons it changes."""
    return option(0.05, f"strength of the current correction for neurons {neurons_text}; 0: none", low=0.0)


class ExactGradientRule(LearningRule):
    """Rule with exact gradients of spike times. Spike counts have no gradient, so a correction keeps them in a band.

    A rule wraps the neurons with ``timed``; ``lowest`` and ``highest`` bound the mean spikes per control step of every neuron.
    """

    has_independent_samples = False
    counts_have_gradient = False
    decoders_without_gradient = ("rate", "population_vector", "sigma_delta")
    timed: ClassVar[type[ExactSpikeNeuron]]
    """Wrapper of neurons that locates spikes within the step."""

    class Options(Settings):
        """Options of every rule with exact gradients; ``lowest`` is the lower bound of a neuron's mean spike count."""

        tau_synapse: float = option(5.0, "time constant of the synapses", low=1e-3, unit="ms")
        slope: float = declare_slope(0.005)
        regularization: float = declare_regularization("outside the band of spike counts")
        lowest: float

    def __init__(self, options: Options, highest: float) -> None:
        super().__init__()
        self.tau_synapse, self.slope = options.tau_synapse, options.slope
        self.regularization, self.lowest, self.highest = options.regularization, options.lowest, highest

    @override
    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        return self.timed.wrap(
            neuron, type(self).__name__.lower(), tau_synapse=self.tau_synapse, slope=self.slope
        )

    @override
    def on_layer_output(
        self,
        layer: SpikingLayer,
        signal: Tensor,
        current: Tensor,
        output: Tensor,
        keep: Tensor | None,
        regularization: float | None = None,
    ) -> Tensor:
        """Return ``output``, with the correction of ``regularization``; if that is None, of the rule's own strength."""
        strength = self.regularization if regularization is None else regularization
        if not strength or not current.requires_grad:
            return output
        return _RateBand.apply(output, current, strength, self.lowest, self.highest)  # type: ignore[return-value]

    @override
    def get_output_hook(self) -> OutputHook:
        return functools.partial(self.on_layer_output, regularization=self.regularization)


class _RateBand(torch.autograd.Function):
    """Return the output unchanged; add to the current's gradient the distance of each neuron's mean spike count from the band.

    The gradient lowers the current of a neuron above the band and raises it below, spread evenly over the T x B samples: in each of the
    K inner steps, or once for a current that is constant over them.
    """

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
        (correction,) = ctx.saved_tensors
        samples = ctx.shape[0] * ctx.shape[2]
        return grads[0], (correction / samples).expand(ctx.shape), None, None, None
