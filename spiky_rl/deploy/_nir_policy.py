"""A policy read from a NIR file. It runs on the torch backend and is equal to it to the last bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spiky_rl.codecs.decoders.base import Decoder
from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.config.registry import UserError
from spiky_rl.kernels import dispatch
from spiky_rl.kernels.launch import RecurrentFeedback
from spiky_rl.kernels.ops import TorchOps
from spiky_rl.neurons.base import Neuron
from spiky_rl.surrogates.rectangle import Rectangle

OPS = TorchOps(Rectangle.from_options(slope=1.0))


@dataclass
class ConvGeometry:
    """Geometry of a convolution: input shape, stride, padding and pooling."""

    inputs: tuple[int, ...]
    """(C, H, W)."""
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    pool: int
    """Side of the average pooling; 1 for none."""


@dataclass
class NirStage:
    """A layer: a linear map or convolution, its neurons, and their recurrent connection."""

    weight: Tensor
    bias: Tensor
    maps: ConvGeometry | None
    """Geometry of a convolution; None if the weight is a matrix."""
    width: int
    """Number of neurons N."""
    neuron: Neuron
    params: tuple[Tensor | float, ...]
    feedback: RecurrentFeedback | None
    synapses: Tensor | None
    """Recurrent weights, [D N, N]."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of the states."""
        return (self.width,) * (1 + (self.feedback.states if self.feedback else 0))

    def __call__(
        self, signal: Tensor, steps: int, state: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the spikes [1, K, B, N] for a signal [1, K or 1, B, C], and the new state if ``state`` is given."""
        return dispatch.unroll(
            *(dispatch.REFERENCE, self.neuron, OPS, self._current(signal), steps, state, self.params),
            feedback=self.feedback,
            synapses=self.synapses,
        )

    def _current(self, signal: Tensor) -> Tensor:
        if self.maps is None:
            return functional.linear(signal, self.weight, self.bias)
        maps = signal.reshape(-1, *self.maps.inputs)
        current = functional.conv2d(maps, self.weight, self.bias, self.maps.stride, self.maps.padding)
        if self.maps.pool > 1:
            current = functional.avg_pool2d(current, self.maps.pool)
        return current.reshape(*signal.shape[:-1], self.width)


class NirPolicy:
    """A policy: observations to actions.

    Attributes:
        inputs: Shape of an observation.
        steps: Inner steps per control step, K.
        stateful: Whether potentials are kept between control steps.
        spikes: Spikes of every layer in the last call, [K, B, N].
    """

    def __init__(
        self,
        stages: list[NirStage],
        encoder: Encoder,
        decoder: Decoder,
        normalisation: tuple[Tensor, Tensor] | None,
        inputs: tuple[int, ...],
        steps: int,
        stateful: bool,
    ) -> None:
        """Build the policy; ``normalisation``: mean and divisor of an observation, [O] each."""
        self.inputs, self.steps, self.stateful = inputs, steps, stateful
        self.spikes: list[Tensor] = []
        self._stages, self._encoder, self._decoder = stages, encoder, decoder
        self._normalisation = normalisation
        self._state: tuple[Tensor, ...] | None = None

    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the state of all robots, or of those with ``dones`` [B], as at the start of an episode."""
        if dones is None:
            self._state = None
        elif self._state is not None:
            done = dones.view(-1, 1) > 0
            self._state = tuple(torch.where(done, torch.zeros_like(s), s) for s in self._state)

    def step(self, observation: Tensor) -> Tensor:
        """Run a control step: observations [B, ...], not normalised -> actions [B, A].

        Raises UserError if an observation's shape is not ``inputs``, or the number of robots changes without a reset.
        """
        x = observation.flatten(1)
        if x.shape[1] != math.prod(self.inputs):
            raise UserError(
                f"observation: shape {list(observation.shape[1:])} given; allowed: {list(self.inputs)}"
            )
        state = self._get_state(len(x)) if self.stateful else None
        if self._normalisation is not None:
            mean, scale = self._normalisation
            x = (x - mean) / scale
        count = len(self._encoder.state_sizes)
        signal, after = self._encoder.encode_stateful(x[None], None if state is None else state[:count], None)
        self.spikes, new = [], [*after]
        for stage in self._stages:
            own = None if state is None else state[count : count + len(stage.sizes)]
            signal, after = stage(signal, self.steps, own)
            count += len(stage.sizes)
            new += after
            self.spikes.append(signal[0])
        features, after = self._decoder(signal, None if state is None else state[count:], None)
        if self.stateful:
            self._state = (*new, *after)
        return features[0]

    def _get_state(self, robots: int) -> tuple[Tensor, ...]:
        """Return the state before the next step, [B, size] each."""
        if self._state is None:
            sizes = [*self._encoder.state_sizes, *(size for stage in self._stages for size in stage.sizes)]
            sizes += [self._decoder.state_width] if self._decoder.state_width else []
            return tuple(torch.zeros(robots, size) for size in sizes)
        if len(self._state[0]) != robots:
            raise UserError(
                f"observation: {robots} robots given; allowed: {len(self._state[0])}, as in the state; call reset() first"
            )
        return self._state
