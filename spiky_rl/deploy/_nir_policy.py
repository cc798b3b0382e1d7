"""A policy read from a NIR file. It runs on the torch backend and is equal to the exported policy to the last bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spiky_rl.config.registry import UserError
from spiky_rl.networks.base import ForwardRecord, SpikingNetwork, State


class NirPolicy:
    """A policy: observations to actions.

    Attributes:
        network: The network of the file.
        inputs: Shape of an observation.
        steps: Inner steps per control step, K.
        stateful: Whether potentials are kept between control steps.
        spikes: Spikes of every layer in the last call, [K, B, N].
    """

    def __init__(self, network: SpikingNetwork, inputs: tuple[int, ...]) -> None:
        """Build the policy of a ``network`` that takes observations of the shape ``inputs``."""
        self.network, self.inputs = network, inputs
        self.steps, self.stateful = network.steps, network.stateful
        self.spikes: list[Tensor] = []
        self._state: State | None = None

    def reset(self, dones: Tensor | None = None) -> None:
        """Reset the state of all robots, or of those with ``dones`` [B], as at the start of an episode."""
        if dones is None:
            self._state = None
        elif self._state is not None:
            done = dones.view(-1, 1) > 0
            self._state = tuple(torch.where(done, torch.zeros_like(s), s) for s in self._state)

    def step(self, observation: Tensor) -> Tensor:
        """Run a control step: observations [B, ...] of any number type, not normalised -> actions [B, A].

        Raises UserError if an observation's shape is not ``inputs``, or the number of robots changes without a reset.
        """
        shape = observation.shape[1:]
        if observation.ndim < 2 or shape.numel() != math.prod(self.inputs):
            raise UserError(f"observation: shape {list(shape)} given; allowed: {list(self.inputs)}")
        x = observation.flatten(1).float()
        record = ForwardRecord(only_signals=True)
        state = self._get_state(x) if self.stateful else None
        features, state = self.network(x[None], state, record=record)
        self.spikes = [signal[0] for signal in record.layer_spikes]
        if self.stateful:
            self._state = state
        return features[0]

    def _get_state(self, x: Tensor) -> State:
        """Return the state before the next step, [1, B, size] each, for observations ``x`` [B, O]."""
        if self._state is None:
            return self.network.zero_state(len(x), x)
        if self._state[0].shape[1] != len(x):
            raise UserError(
                f"observation: {len(x)} robots given; allowed: {self._state[0].shape[1]}, as in the state; call reset() first"
            )
        return self._state
