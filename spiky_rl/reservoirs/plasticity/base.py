"""Base class of plasticity rules: they observe the spikes of a running reservoir and change its weights and biases in place."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component


class Plasticity(Component, torch.nn.Module):
    """A plasticity rule, built with the reservoir's initial values.

    ``weight`` [N, N] from row to column, ``bias`` [N] and ``inhibitory`` [N] bool are the reservoir's; ``unit`` is the rheobase, the
    unit of currents; ``dt`` is the inner time step in ms.
    """

    state_sizes: tuple[int, ...] = ()
    """Width of each of its states [B, size], which the reservoir carries with its own; the initial state is zero."""
    backend: str = "auto"
    """Name of the backend that runs it."""

    @abstractmethod
    def observe(self, spikes: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Observe the ``spikes`` [K, B, N] of one control step; return the state after it, given the ``state`` before it."""

    @abstractmethod
    def adapt(self, weight: Tensor, bias: Tensor) -> None:
        """Change ``weight`` [N, N] and ``bias`` [N] in place, by the spikes observed since the last call; called after a control step."""
