"""Optimisers of the learners: one kernel for all weights, and learning rates that outlive a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.optim import Optimizer


def fuse_optimizer(optimizer: Optimizer) -> None:
    """Let ``optimizer`` change all weights in one kernel, if torch has one for it.

    On a CPU, torch's default is a dozen operations per weight, which take a sixth of an update of small networks. The kernel rounds in
    another order. A training that resumes from a checkpoint of an optimiser without the kernel continues without it, with the same bits.
    """
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True


@contextmanager
def keep_learning_rates(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Restore the learning rates of ``optimizers`` when the block, which loads their states from a checkpoint, ends.

    A schedule changes the rate of an optimiser, so it belongs to the checkpoint; without a schedule it is a setting, and a resumed
    training may set another one.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    yield
    loaded = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, rate in zip(loaded, rates, strict=True):
        group["lr"] = rate
