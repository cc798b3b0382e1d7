"""Base class of learning rules: backpropagation through time (BPTT) with hooks that change the gradient.

A rule may replace the agent's neuron (usually by one with the same output and another gradient), change the gradient at the
input and output of a layer, and change how the error of the features reaches the layers. The results are gradients for any
optimiser. A rule does not change the forward pass unless its docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.config.registry import Component, ComponentSpec
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.base import Surrogate

type OutputHook = Callable[[SpikingLayer, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Function with the arguments of `LearningRule.on_layer_output`."""


class LearningRule(Component, torch.nn.Module):
    """Learning rule; without overridden methods it is BPTT."""

    has_hooks: ClassVar[bool] = False
    """Whether `on_layer_input`, `on_layer_output` or `decode` is overridden. Otherwise networks do not call them, and a backend may
    run all layers in one call."""
    has_independent_samples: ClassVar[bool] = True
    """Whether the gradient of a sample is independent of its batch."""
    cut_recurrent: ClassVar[bool] = False
    """Whether recurrent spikes carry no gradient."""
    counts_have_gradient: ClassVar[bool] = True
    """Whether spike counts have a gradient; if not, only spike times have one."""
    decoders_without_gradient: ClassVar[tuple[str, ...]] = ()
    """Names of decoders that have no gradient under this rule."""
    trains_encoder: ClassVar[bool] = True
    """Whether the parameters of an encoder get a gradient; if not, networks refuse an encoder that has some."""
    is_local: ClassVar[bool] = False
    """Whether `apply_weight_change` must be called after every rollout, for weights without a gradient."""
    truncate: int = 0
    """Number of control steps after which the gradient of a replayed rollout is cut; 0: never."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.has_hooks = (cls.on_layer_input, cls.on_layer_output, cls.decode) != (
            LearningRule.on_layer_input,
            LearningRule.on_layer_output,
            LearningRule.decode,
        )
        if cls.is_local != (cls.apply_weight_change is not LearningRule.apply_weight_change):
            raise TypeError(
                f"{cls.__name__}: is_local must be True if and only if apply_weight_change is defined"
            )

    def choose_surrogate(self, surrogate: Surrogate) -> Surrogate:
        """Return the surrogate to use instead of the agent's ``surrogate``."""
        return surrogate

    def wrap_neuron(self, neuron: Neuron) -> Neuron:
        """Return the neuron to run instead of the agent's ``neuron``. Raises RegistryError if the rule does not support it."""
        return neuron

    def setup(self, layers: Sequence[SpikingLayer], decoder: ComponentSpec, outputs: int) -> None:
        """Create the rule's own tensors and modules, for all layers and a decoder with F = ``outputs``."""

    def on_layer_input(self, signal: Tensor) -> Tensor:
        """Return a layer's input, equal to its ``signal`` [T, K or 1, B, C], with the gradient of the rule."""
        return signal

    def on_layer_output(  # pylint: disable=unused-argument
        self, layer: SpikingLayer, signal: Tensor, current: Tensor, output: Tensor, keep: Tensor | None
    ) -> Tensor:
        """Return a layer's output, equal to ``output``, with the gradient of the rule.

        Args:
            layer: The layer, with its connection and neuron.
            signal: Input [T, K or 1, B, C].
            current: Current from the connection [T, K or 1, B, N].
            output: Output [T, K, B, N].
            keep: [T, B]; 0 where an episode begins with this step.
        """
        return output

    def get_output_hook(self) -> OutputHook:
        """Return `on_layer_output` for one forward pass, with the settings that the rule has now.

        With ``recompute`` a layer calls the function again in the backward pass, when a setting may have another value.
        """
        return self.on_layer_output

    def decode(
        self,
        decoder: Decoder,
        outputs: Sequence[Tensor],
        state: tuple[Tensor, ...] | None,
        keep: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the decoder's features [T, B, F] and its new state.

        ``outputs`` holds the output [T, K, B, N] of every layer; ``state`` and ``keep`` are as in `Decoder.forward`.
        """
        return decoder(outputs[-1], state, keep)

    def apply_weight_change(
        self, layers: Sequence[SpikingLayer], signals: Sequence[Tensor], credit: Tensor, keep: Tensor | None
    ) -> None:
        """Change weights in place after a rollout, without a gradient; only for local rules.

        Args:
            signals: Input of every layer [T, K or 1, B, C], then the output of the last layer [T, K, B, N].
            credit: Credit of the action in every control step [T, B].
            keep: [T, B]; 0 where an episode begins with this step.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no apply_weight_change; a local rule must")


Rule = LearningRule
"""Old name, kept for one release."""
