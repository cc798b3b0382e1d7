"""Helpers for the adjoint of a recurrent loop: its delayed outputs, and tensors that were computed in parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def concat_parts(parts: Sequence[Tensor], dim: int) -> Tensor:
    """The whole, of its ``parts`` along the dimension ``dim``."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def sum_parts(parts: Sequence[Tensor]) -> Tensor:
    """The sum of ``parts``, from the first to the last."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def reverse_delays(past: Tensor) -> Tensor:
    """Outputs of the ``past`` [D, ...] from the earliest to the latest where they came from the latest on, and the reverse."""
    return past if len(past) == 1 else past.flip(0)


def make_delay_masks(keep: Tensor | None, T: int, steps: int, delays: int) -> list[Tensor] | None:
    """For each delay: 1 where a step still has what was sent then, 0 where an episode began since; [T K + 1, B].

    The last step is the one after all, which reads the state that is left.

    Args:
        keep: [T, B]; 0 where an episode begins. None: none does, and None comes back.
        T: Control steps.
        steps: K.
        delays: D.
    """
    if keep is None:
        return None
    B = keep.shape[1]
    begins = keep.new_ones(T * steps + 1, B)
    begins[:-1].view(T, steps, B)[:, 0] = keep
    reach = [begins]
    for d in range(1, delays):
        shifted = torch.cat([begins.new_ones(min(d, len(begins)), B), begins])[: len(begins)]
        reach.append(reach[-1] * shifted)
    return reach
