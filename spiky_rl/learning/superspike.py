"""SuperSpike: a three-factor rule of the presynaptic trace, the postsynaptic surrogate derivative and the filtered error.

    dw_ij ~ sum_t e_i(t) (alpha * [sigma'(V_i) (eps * s_j)])(t)

* is the convolution in time, eps the response of the neuron's potential to its input, sigma' the network's surrogate (`fast_sigmoid`
in the paper), alpha a double exponential of unit area (``tau_rise``, ``tau_decay``), and e_i the error at the output of neuron i:
alpha * (s_i - target) if the loss compares spikes with target spikes. The reset has no gradient. A lower layer gets the same errors through the weights
(``feedback: symmetric``), through fixed random weights (``random``) or as their sum (``uniform``). Unlike in BPTT, the errors do
not pass through the dynamics of the layer above.

The implementation sums in reverse: it correlates the errors with alpha and then with eps, so no synapse needs a trace.

Source: Zenke & Ganguli (2018).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, override

import torch
from torch import Tensor

from spiky_rl.config.options import Settings, option
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.learning._filters import (
    DoubleExponential,
    add_feedback_gradient,
    backpropagate_current,
    smooth_gradient,
)
from spiky_rl.learning._neuron_wrapper import GradientThroughReset
from spiky_rl.learning.base import LearningRule
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron


class Superspike(LearningRule):
    """SuperSpike: a three-factor rule with surrogate derivatives and filtered errors."""

    class Options(Settings):
        tau_rise: float = option(5.0, "time constant of alpha's rise", low=1e-3, unit="ms")
        tau_decay: float = option(10.0, "time constant of alpha's decay", low=1e-3, unit="ms")
        feedback: Literal["symmetric", "random", "uniform"] = option(
            "symmetric", "weights of the errors for a lower layer: the layer's own, random, or all 1"
        )

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.tau_rise, self.tau_decay, self.feedback = options.tau_rise, options.tau_decay, options.feedback

    @override
    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        return GradientThroughReset.wrap(neuron, "superspike")

    @override
    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        if self.feedback == "symmetric":
            return
        for below, layer in itertools.pairwise(layers):
            shape = (layer.width, below.width)
            weights = (
                torch.ones(shape) if self.feedback == "uniform" else torch.randn(shape) / math.sqrt(shape[0])
            )
            layer.register_buffer("feedback", weights)

    @override
    def on_layer_input(self, signal: Tensor) -> Tensor:
        return signal.detach()

    @override
    def on_layer_output(
        self, layer: SpikingLayer, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        smooth = DoubleExponential.from_options(
            tau_rise=self.tau_rise, tau_fall=self.tau_decay, dt=layer.neuron.dt
        )
        filtered = smooth_gradient(output, smooth, keep, layer.backend)
        if not signal.requires_grad:
            return filtered
        fixed = getattr(layer, "feedback", None)
        feedback = backpropagate_current(layer, signal) if fixed is None else lambda error: error @ fixed
        return add_feedback_gradient(filtered, signal, feedback)
