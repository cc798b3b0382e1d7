"""What every learning rule is: what happens to errors on their way back through a layer.

A network's forward pass is the same under every rule, unless a rule says otherwise. A rule may run another neuron in the
place of the agent's (one that computes the same and differs in its gradient), change what a layer passes back, and decide how
the output's error reaches the layers. What is left after that are gradients as any optimiser takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.registry import Component, ComponentSpec
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate


class LearningRule(Component, torch.nn.Module):
    """BPTT, unless a method is replaced."""

    renamed = {
        "before": "on_layer_input",
        "after": "on_layer_output",
        "read": "decode",
        "change": "apply_weight_change",
        "attach": "setup",
        "neuron": "wrap_neuron",
        "surrogate": "choose_surrogate",
        "no_way_through": "blocks_gradient",
    }

    plain: ClassVar[bool] = True
    """Whether `before`, `after` and `read` are the ones below: they are then not called, and a backend may run all layers at once."""
    by_sample: ClassVar[bool] = True
    """Whether a sample's gradient is the same in every batch."""
    cut_recurrent: ClassVar[bool] = False
    """Whether spikes that return to their own layer carry no gradient."""
    counts: ClassVar[bool] = True
    """Whether there is a gradient for whether a neuron spikes, and not only for when."""
    blocks_gradient: ClassVar[tuple[str, ...]] = ()
    """Decoders through which the rule's errors do not pass."""
    local: ClassVar[bool] = False
    """Whether `change` is to be called after every rollout, for weights that no gradient reaches; who says so defines it."""
    truncate: int = 0
    """Control steps after which a replayed rollout's gradient is cut; 0: never."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.plain = (cls.on_layer_input, cls.on_layer_output, cls.decode) == (
            LearningRule.on_layer_input,
            LearningRule.on_layer_output,
            LearningRule.decode,
        )
        if cls.local != (cls.apply_weight_change is not LearningRule.apply_weight_change):
            raise TypeError(
                f"{cls.__name__}: a local rule defines apply_weight_change, and one that defines it is local"
            )

    def choose_surrogate(self, surrogate: Surrogate) -> Surrogate:
        """The surrogate that is used where the agent names this ``surrogate``."""
        return surrogate

    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        """The neuron that runs where the agent names this ``neuron``. Raises RegistryError where the rule has no gradient for it."""
        return neuron

    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        """Make what the rule needs for these ``layers``, and a configured ``decoder`` with ``outputs`` features."""

    def on_layer_input(self, signal: Tensor) -> Tensor:
        """The input that a layer reads for its ``signal`` [T, K or 1, B, C]."""
        return signal

    def on_layer_output(  # pylint: disable=unused-argument
        self, layer: SpikingLayer, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None
    ) -> Tensor:
        """A layer's output, with the gradient that the rule gives it.

        Args:
            layer: Whose output it is.
            signal: Its input, [T, K or 1, B, C].
            current: What its connection makes of that, [T, K or 1, B, N].
            output: What comes back, in value: [T, K, B, N].
            keep: [T, B]; 0 where an episode begins with this step.
        """
        return output

    def decode(
        self,
        decoder: Decoder,
        outputs: Sequence[Tensor],
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features [T, B, F] of the ``decoder`` and its new ``state``, from the ``outputs`` of all layers; ``keep`` as in `after`."""
        return decoder(outputs[-1], state, keep)

    def apply_weight_change(
        self, layers: Sequence[SpikingLayer], signals: Sequence[Tensor], credit: Tensor, keep: Tensor | None
    ) -> None:
        """Change weights without a gradient in place after a rollout; for a `local` rule.

        Args:
            layers: All of them.
            signals: The input of every layer, [T, K or 1, B, C], then the last one's output [T, K, B, N].
            credit: Credit of every control step's action, [T, B].
            keep: [T, B]; 0 where an episode begins with this step.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no change; a local rule must")


Rule = LearningRule
"""The old name, for one release."""
