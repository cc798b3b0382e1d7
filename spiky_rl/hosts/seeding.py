"""Random numbers of a simulation from a seed of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seed_torch(seed: int, device: torch.device | str) -> Iterator[None]:
    """Draw torch's random numbers on ``device``, which the simulation takes, from ``seed``; restore the generators afterwards."""
    torch_device = torch.device(device)
    with torch.random.fork_rng(devices=[torch_device] if torch_device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
