"""Which recordings are learned from, and which are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from spiky_rl.registry import UserError


@dataclass(frozen=True)
class Split:
    """Indices, ascending; no recording stands in both."""

    train: np.ndarray
    test: np.ndarray
    digest: str
    """Hash of both."""


def official(of_test: np.ndarray) -> Split:
    """The dataset's own split, from which recordings are of its test set, [recordings]."""
    return _split(of_test)


def stratified(labels: np.ndarray, count: int, seed: int) -> Split:
    """Hold out ``count`` recordings drawn by ``seed``, of every class as large a part as of all, give or take one.

    Raises UserError where that leaves nothing to learn from.
    """
    if not 0 < count < len(labels):
        raise UserError(
            f"--hold_out {count}: must be between 1 and {len(labels) - 1}, one less than the recordings"
        )
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    exact = np.array([count * (labels == c).sum() / len(labels) for c in classes])
    quota = np.floor(exact).astype(int)
    # the largest remainders get what rounding down left over
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(labels), bool)
    for c, share in zip(classes, quota, strict=True):
        chosen[generator.permutation(np.flatnonzero(labels == c))[:share]] = True
    return _split(chosen)


def _split(chosen: np.ndarray) -> Split:
    digest = hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()[:16]
    return Split(np.flatnonzero(~chosen), np.flatnonzero(chosen), digest)
