"""What every encoder is: observations into the input of the first layer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from spiky_rl.config.registry import Component


class Encoder(Component, torch.nn.Module):
    """Turns an observation into the signal that the first connection reads."""

    renamed = {"encode": "encode_stateful", "redraw": "resample_noise", "operations": "count_operations"}

    width: int
    """C, channels of the signal."""
    binary: bool = False
    """Whether the signal is 0 or 1."""
    topographic: bool = False
    """Whether the signal is one or more copies of the observation's layout, [copies, O] flat: maps then stay maps."""
    state_sizes: tuple[int, ...] = ()
    """Width of every state that is carried between control steps."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Observation ``x`` [T, B, O] -> signal [T, K, B, C], or [T, 1, B, C] where it is constant over the control step.

        Repeatable: the same observation gives the same signal until the next `redraw`, because PPO compares the
        probability of an action in the rollout with that in the update. An encoder with a state starts from rest.
        """

    def encode_stateful(  # pylint: disable=unused-argument
        self, x: Tensor, state: tuple[Tensor, ...] | None, keep: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `forward`, and the new state.

        Args:
            x: Observations [T, B, O].
            state: Before the first step, [B, size] each; None: from rest in every control step, and no state comes out.
            keep: [T, B]; 0 where an episode begins with this step.
        """
        return self(x), ()

    def resample_noise(self, updates: int) -> None:
        """Draw the noise of a random encoder anew, in place: a captured graph reads the same memory. Once per PPO update.

        ``updates``: how many there have been, which seeds it.
        """

    def count_operations(self, x: Tensor) -> Tensor:
        """Operations of the encoder itself for ``x`` [T, B, O]: [T, B]. Arithmetic, whatever its result; no comparisons."""
        return torch.zeros(x.shape[:2], device=x.device)


def uniform_noise(seed: int, steps: int, width: int) -> Tensor:
    """Noise of a random encoder, uniform in [0, 1): [K, C], one row for all environments.

    Args:
        seed: Seed of a generator of its own.
        steps: K.
        width: C.
    """
    return torch.rand(steps, width, generator=torch.Generator().manual_seed(seed))


def resample_noise(noise: Tensor, seed: int) -> None:
    """Draw the ``noise`` of `uniform_noise` anew, in place, from another ``seed``."""
    noise.copy_(uniform_noise(seed, *noise.shape))
