"""What every plasticity is: it sees the spikes of a running reservoir and changes its weights and biases in place."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component


class Plasticity(Component, torch.nn.Module):
    """Built with the reservoir as it is at the start, and what it is measured in.

    ``weight`` [N, N] from row to column, ``bias`` [N] and ``inhibitory`` [N] bool are read; ``unit`` is the rheobase, in
    which currents count; ``dt`` the inner time step in ms.
    """

    state_sizes: tuple[int, ...] = ()
    """Width of every state [B, size] that it carries with the reservoir's own; rest is zero."""
    backend: str = "auto"
    """What runs it."""

    @abstractmethod
    def observe(self, spikes: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inner steps of one control step: ``spikes`` [K, B, N] and the ``state`` before -> the state after."""

    @abstractmethod
    def adapt(self, weight: Tensor, bias: Tensor) -> None:
        """After a control step: change the reservoir's ``weight`` [N, N] and ``bias`` [N], in place, by what was seen since the last."""
