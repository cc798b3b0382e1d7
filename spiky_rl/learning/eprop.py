"""e-prop: every layer learns from its own traces and from the output's error, which is broadcast to all neurons.

    dL/dw_ji = sum_t L_j(t) (kappa * e_ji)(t),   e_ji(t) = psi_j(t) eps_i(t),   L_j = sum_k B_jk dL/dy_k

psi is the network's surrogate (`triangle` in the paper), eps the trace that the neuron's own states keep of its input, an
adaptive threshold's included, kappa the leak of the readout. No error passes from layer to layer, nor through spikes that
return to their own layer. The last layer's B is the readout's own weights (``feedback: symmetric``) or fixed and random; that
of every other layer is always random.

Computed backwards over the batch, as BPTT within a layer, which gives the same sums as traces that run forward.

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
            "symmetric", "feedback to the last layer: B is the readout, or drawn at random"
        )

    cut_recurrent = True

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.feedback = options.feedback
        self.mirrors: Any = torch.nn.ModuleList()

    @override
    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        if not neuron.chosen.get("detach_reset", True):
            raise RegistryError(
                "detach_reset: false is not allowed with 'eprop', whose reset has no gradient"
            )
        return neuron

    @override
    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        for layer in layers if self.feedback == "random" else layers[:-1]:
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
                # its value does not matter, its gradient is what B sends the layer
                seen, _ = mirror(output, state, keep)
                features = features + (seen - seen.detach())
        return features, new
