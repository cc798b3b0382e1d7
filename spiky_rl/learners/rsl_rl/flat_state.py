"""A spiking model's state as one tensor, for hosts that look for a recurrent module: Isaac Lab's LEAPP export.

Isaac Lab exports the state of a policy that has ``rnn``: it sizes a state of zeros by ``rnn.rnn``, gives it to ``rnn.hidden_state``
before a control step, and takes what `SpikingModel.get_hidden_state` gives after it as the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import SpikingModel


class FlatState:
    """The part of rsl_rl's `RNN`, and of the torch module in it, that a host asks about."""

    num_layers = 1

    def __init__(self, model: SpikingModel) -> None:
        self._model = model
        self.rnn = self
        self.hidden_size = sum(model.network.state_sizes)
        """S: neurons' potentials and all else that is carried."""

    @property
    def hidden_state(self) -> Tensor | None:
        """[1, B, S], the states one after the other; None: rest."""
        state = self._model.state
        return None if state is None else torch.cat(state, -1)

    @hidden_state.setter
    def hidden_state(self, value: Tensor | None) -> None:
        self._model.state = (
            None if value is None else tuple(value.split(list(self._model.network.state_sizes), -1))
        )
        self._model.flat = value is not None
