"""Hidden state of a spiking model as one tensor, for hosts that expect a recurrent module: Isaac Lab's LEAPP export.

Isaac Lab exports the state of a policy with an attribute ``rnn``: it makes a zero state of the size in ``rnn.rnn``, assigns it
to ``rnn.hidden_state`` before a control step, and reads the next state from `SpikingModel.get_hidden_state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from spiky_rl.learners.rsl_rl.model import SpikingModel


class FlatState:
    """Interface of rsl_rl's `RNN` and of its torch module, as far as a host uses it."""

    num_layers = 1

    def __init__(self, model: SpikingModel) -> None:
        self._model = model
        self.rnn = self
        self.hidden_size = sum(model.network.state_sizes)
        """Size S of the whole hidden state, with potentials and all other values."""

    @property
    def hidden_state(self) -> Tensor | None:
        """Concatenated states, [1, B, S]; None for the zero state."""
        state = self._model.state
        return None if state is None else torch.cat(state, -1)

    @hidden_state.setter
    def hidden_state(self, value: Tensor | None) -> None:
        self._model.state = (
            None if value is None else tuple(value.split(list(self._model.network.state_sizes), -1))
        )
        self._model.flat = value is not None
