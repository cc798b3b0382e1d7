"""Base class of encoders: observations into the signal for the first layer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component


class Encoder(Component, torch.nn.Module):
    """Observation [T, B, O] -> signal [T, K, B, C] for the first connection."""

    width: int
    """C: number of channels of the signal."""
    binary: bool = False
    """Whether the signal is 0 or 1."""
    topographic: bool = False
    """Whether the signal is one or more copies of the observation's layout, [copies, O] flattened, so that maps stay maps."""
    only_changes: bool = False
    """Whether the encoder, if it carries a state, sends no events while its input is constant."""
    state_sizes: tuple[int, ...] = ()
    """Width of each state that is carried between control steps."""
    backend: str = "auto"
    """Kernel backend of an encoder whose state is a neuron's."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Encode ``x`` [T, B, O] as a signal [T, K, B, C], or [T, 1, B, C] if it is constant over the control step.

        Must be repeatable: the same observation gives the same signal until the next `resample_noise`, because PPO compares
        the probability of an action in the rollout with that in the update. States start from zero.
        """

    def encode_stateful(  # pylint: disable=unused-argument
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode with a state; return the signal of `forward` and the new state.

        Args:
            x: Observations [T, B, O].
            state: [B, size] each, before the first step; None to start every control step from zero and return no state.
            keep: [T, B]; 0 where an episode begins with this step.
        """
        return self(x), ()

    def set_backend(self, backend: str) -> None:
        """Use another kernel ``backend`` from now on, here and in encoders inside this one."""
        for module in self.modules():
            if isinstance(module, Encoder):
                module.backend = backend

    def resample_noise(self, updates: int) -> None:
        """Draw new noise for a random encoder after every PPO update, seeded by the number of ``updates`` so far.

        In place, so that a captured graph sees it.
        """

    def count_operations(self, x: Tensor) -> Tensor:
        """Count the encoder's own arithmetic operations [T, B] for ``x`` [T, B, O]; comparisons do not count."""
        return torch.zeros(x.shape[:2], device=x.device)


def uniform_noise(seed: int, steps: int, width: int) -> Tensor:
    """Draw noise [steps, width], uniform in [0, 1), the same for all environments, from a generator of its own."""
    return torch.rand(steps, width, generator=torch.Generator().manual_seed(seed))


def resample_noise(noise: Tensor, seed: int) -> None:
    """Draw the ``noise`` of `uniform_noise` again, in place, with another ``seed``."""
    noise.copy_(uniform_noise(seed, *noise.shape))
