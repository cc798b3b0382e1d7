"""Passes that leave out a network's loss terms on activity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spiky_rl.networks.base import SpikingNetwork


@contextmanager
def leave_out_penalty(network: SpikingNetwork | None) -> Iterator[None]:
    """Run passes of a ``network`` (None for an ANN) without its penalty, and without its learning rule's correction of spike counts.

    Both add their gradient to every backward pass, whatever its loss. A loss with a further pass through the network, or one that only
    sends a gradient through it to another model, must not add them.
    """
    terms: list[tuple[Any, str, object]] = [
        (network, "sparsity", None),
        (getattr(network, "learning", None), "regularization", 0.0),
    ]
    changed = [
        (owner, name, getattr(owner, name), none) for owner, name, none in terms if hasattr(owner, name)
    ]
    for owner, name, _, none in changed:
        setattr(owner, name, none)
    try:
        yield
    finally:
        for owner, name, value, _ in changed:
            setattr(owner, name, value)
