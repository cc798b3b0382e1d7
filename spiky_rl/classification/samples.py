"""Samples: recordings as frames that a network sees, and the classes that it is to tell."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiky_rl.classification.cache import PLACE, load_cached
from spiky_rl.config import files
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.datasets.base import Dataset, Recording

log = logging.getLogger(__name__)

NAMED = 20
"""Skipped recordings that are named on the terminal."""


@dataclass(frozen=True)
class Samples:
    """Everything that is classified."""

    name: str
    size: tuple[int, int, int, int]
    """Frames of a sample: T, channels, rows, columns."""
    classes: tuple[str, ...]
    places: np.ndarray
    """[events], of all samples: index into the flat frames of its own."""
    offsets: np.ndarray
    """[samples + 1], first event of each."""
    labels: np.ndarray
    """[samples], int64."""
    parts: Sequence[str]
    """[samples], what the dataset says that each is."""
    names: Sequence[str]
    """[samples]."""
    digests: np.ndarray
    """[samples], hash of the events of each."""
    scale: float = 1.0
    """What an event counts."""
    binary: bool = False
    """Whether frames say that there were events, or how many."""
    synthetic: str = ""
    """What stood in for the sensor; empty: nothing."""
    skipped: tuple[str, ...] = ()
    """What is wrong with recordings that were left out."""
    ends: np.ndarray | None = None
    """[samples], time after the last event of each, in the window or not; None if it is not known."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return self.size[1:]

    @property
    def digest(self) -> str:
        """Hash of recordings, labels and frames: equal wherever the recordings lie, and in whatever form."""
        text = repr((self.size, self.classes, self.scale, self.binary, list(self.names)))
        return hashlib.sha256(text.encode() + self.labels.tobytes() + self.digests.tobytes()).hexdigest()[:16]

    def flat(self, indices: np.ndarray) -> np.ndarray:
        """Places of some samples' events in the flat frames of all of these, [events], int64."""
        indices = np.asarray(indices)
        own = [self.places[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        first = np.repeat(np.arange(len(own)) * math.prod(self.size), [len(places) for places in own])
        return np.concatenate([np.zeros(0, PLACE), *own]).astype(np.int64) + first

    def filled(self, places: Tensor, count: int) -> Tensor:
        """Frames [B, T, channels, rows, columns] of ``count`` samples, on the device of ``places``, which `flat` gave."""
        frames = torch.zeros(count * math.prod(self.size), device=places.device)
        frames.index_add_(0, places, frames.new_ones(1).expand(places.shape[0]))
        if self.binary:
            frames.clamp_(max=1.0)
        return (frames * self.scale if self.scale != 1.0 else frames).view(count, *self.size)

    def frames(self, indices: np.ndarray) -> Tensor:
        """Frames [B, T, channels, rows, columns] of samples: event counts times `scale`."""
        return self.filled(torch.from_numpy(self.flat(indices)), len(indices))


def data_folder(given: Path | None = None) -> Path:
    """Where the data lie: ``given``, else the environment's SPIKY_RL_DATA, else ``datasets`` in our cache."""
    return (given or Path(os.environ.get("SPIKY_RL_DATA") or files.cache_folder() / "datasets")).absolute()


def load(
    name: str,
    dataset: Dataset,
    recordings: Sequence[Recording],
    skip_bad: bool = False,
    shown: ProgressFactory = no_progress,
) -> Samples:
    """Some of a dataset's recordings as samples; arguments and errors as of `cache.stored`. ``name``: the dataset's."""
    if dataset.synthetic:
        log.warning("synthetic recordings (%s): no result of them is one of real ones", dataset.synthetic)
    held = load_cached(dataset, recordings, skip_bad, shown)
    chosen = [recordings[i] for i in held.index]
    if held.skipped:
        log.warning("skipped %d of %d recordings:", len(held.skipped), len(recordings))
        for reason in held.skipped[:NAMED]:
            log.warning("  %s", reason)
        if len(held.skipped) > NAMED:
            log.warning("  and %d more; result.json names them all", len(held.skipped) - NAMED)
    return Samples(
        name,
        (dataset.bins, *dataset.shape),
        dataset.classes,
        held.places,
        held.offsets,
        np.array([r.label for r in chosen], np.int64),
        [r.part for r in chosen],
        [r.name for r in chosen],
        held.digests,
        dataset.scale,
        dataset.binary,
        dataset.synthetic,
        held.skipped,
        held.ends,
    )
