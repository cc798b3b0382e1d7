"""e-prop: every layer learns from its own eligibility traces and from the error of the output, broadcast to all neurons.

    dL/dw_ji = sum_t L_j(t) (kappa * e_ji)(t),   e_ji(t) = psi_j(t) eps_i(t),   L_j = sum_k B_jk dL/dy_k

psi is the network's surrogate (`triangle` in the paper), eps the trace of the input in the neuron's own states (an adaptive
threshold included), and kappa * the convolution in time with the leak of the readout. No error passes from layer to layer, through
recurrent spikes, or to the encoder, so an encoder with learned weights is refused. B of the last layer is the readout's weights
(``feedback: symmetric``) or fixed and random; B of every other layer is fixed and random. Random weights are the initial ones of
another decoder of the same kind: with `population_vector` they are not drawn, but its initial preferred values.

The implementation needs no forward traces: BPTT within each layer, with the broadcast errors at its output, gives the same sums.

Source: Bellec et al. (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, override

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.config.registry import ComponentSpec
from spiky_rl.learning.base import LearningRule
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron


class Eprop(LearningRule):
    """e-prop: a three-factor rule with eligibility traces and broadcast errors."""

    class Options(Settings):
        feedback: Literal["symmetric", "random"] = option(
            "symmetric", "feedback B to the last layer: the readout's weights, or fixed random weights"
        )

    cut_recurrent = True
    trains_encoder = False

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.feedback = options.feedback
        self.mirrors: Any = torch.nn.ModuleList()
        """For every layer with random feedback, a decoder with fixed random weights B, whose gradient is the layer's error."""

    @override
    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        if not neuron.chosen.get("detach_reset", True):
            raise RegistryError("detach_reset: false is not allowed with 'eprop'; set it to true")
        return neuron

    @override
    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        with_random_feedback = layers if self.feedback == "random" else layers[:-1]
        for layer in with_random_feedback:
            mirror = decoder.build(inputs=layer.width, outputs=outputs).requires_grad_(False)
            mirror.configure(layer.backend, not layer.neuron.graded)
            self.mirrors.append(mirror)

    @override
    def on_layer_input(self, signal: Tensor) -> Tensor:
        return signal.detach()

    @override
    def decode(
        self,
        decoder: Decoder,
        outputs: Sequence[Tensor],
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        last = outputs[-1].detach() if self.feedback == "random" else outputs[-1]
        features, new = decoder(last, state, keep)
        if torch.is_grad_enabled():
            for mirror, output in zip(self.mirrors, outputs, strict=False):
                # features stay the same, and their gradient also reaches this layer's output through the mirror
                mirrored, _ = mirror(output, state, keep)
                features = features + (mirrored - mirrored.detach())
        return features, new
