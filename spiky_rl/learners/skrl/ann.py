"""ANN for skrl models: an MLP, optionally behind recurrent layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spiky_rl.networks.base import State

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "crelu": nn.CELU,
    "lrelu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "identity": nn.Identity,
}
"""Activation modules by rsl_rl's names."""


class AnnModel(nn.Module):
    """ANN with the interface of a `SpikingNetwork`: [T, B, inputs] -> [T, B, outputs], with state in and out."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden_dims: Sequence[int],
        activation: str = "elu",
        rnn_type: str | None = None,
        rnn_hidden_dim: int = 256,
        rnn_num_layers: int = 1,
    ) -> None:
        """Build an MLP with an ``activation`` of `ACTIVATIONS`, behind recurrent layers if ``rnn_type`` is ``gru`` or ``lstm``."""
        super().__init__()
        self.rnn: nn.GRU | nn.LSTM | None = None
        if rnn_type is not None:
            self.rnn = (nn.GRU if rnn_type == "gru" else nn.LSTM)(inputs, rnn_hidden_dim, rnn_num_layers)
        self.stateful = self.rnn is not None
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(
            [rnn_hidden_dim if self.stateful else inputs, *hidden_dims, outputs]
        ):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.mlp = nn.Sequential(*layers[:-1])

    @property
    def state_shapes(self) -> list[tuple[int, int]]:
        """(layers, width) of every state."""
        if self.rnn is None:
            return []
        return [(self.rnn.num_layers, self.rnn.hidden_size)] * (2 if isinstance(self.rnn, nn.LSTM) else 1)

    def forward(self, x: Tensor, state: State | None, keep: Tensor | None = None) -> tuple[Tensor, State]:
        """Return outputs and the state after the last step.

        Args:
            x: Inputs [T, B, inputs].
            state: State before the first step, [layers, B, width] each; required with recurrent layers.
            keep: [T, B], 0 where an episode begins with the step; None if no episode begins.
        """
        if self.rnn is None:
            return self.mlp(x), ()
        assert state is not None
        # read the mask only on the CPU, because reading it on a GPU would wait for the device
        if keep is None or (keep.device.type == "cpu" and bool(keep.all())):
            hidden, state = self._recur(x, state)
            return self.mlp(hidden), state
        outputs = []
        for step, step_keep in zip(x, keep, strict=True):
            state = tuple(s * step_keep.view(1, -1, 1) for s in state)
            hidden, state = self._recur(step.unsqueeze(0), state)
            outputs.append(hidden)
        return self.mlp(torch.cat(outputs)), state

    def _recur(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        assert self.rnn is not None
        before = [s.contiguous() for s in state]
        if isinstance(self.rnn, nn.LSTM):
            return self.rnn(x, (before[0], before[1]))
        hidden, after = self.rnn(x, before[0])
        return hidden, (after,)
