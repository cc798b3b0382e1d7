"""Which recordings are learned from, and which are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from spiky_rl.config.registry import UserError


@dataclass(frozen=True)
class Split:
    """Indices, ascending; no recording stands in both."""

    train: np.ndarray
    test: np.ndarray
    digest: str
    """Hash of both."""


def official(of_test: np.ndarray) -> Split:
    """The dataset's own split, from which recordings are of its test set, [recordings]."""
    return _split(~of_test, of_test)


def stratified(labels: np.ndarray, count: int, seed: int, apart: np.ndarray | None = None) -> Split:
    """Hold out ``count`` recordings drawn by ``seed``, of every class as large a part as of all, give or take one.

    ``apart`` [recordings]: those that are in neither part, such as an official test set. Raises UserError where nothing is
    left to learn from.
    """
    used = np.ones(len(labels), bool) if apart is None else ~apart
    total = int(used.sum())
    if not 0 < count < total:
        raise UserError(
            f"--hold_out {count}: must be between 1 and {total - 1}, one less than the recordings"
        )
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(used & (labels == c)) for c in np.unique(labels[used])]
    exact = np.array([count * len(m) / total for m in members])
    quota = np.floor(exact).astype(int)
    # the largest remainders get what rounding down left over
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    chosen = np.zeros(len(labels), bool)
    for of_class, share in zip(members, quota, strict=True):
        chosen[generator.permutation(of_class)[:share]] = True
    return _split(used & ~chosen, chosen)


def _split(train: np.ndarray, test: np.ndarray) -> Split:
    digest = hashlib.sha256(np.packbits(train).tobytes() + np.packbits(test).tobytes()).hexdigest()[:16]
    return Split(np.flatnonzero(train), np.flatnonzero(test), digest)
