"""Samples: recordings as frames, with labels."""

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

from spiky_rl.classification.cache import INDEX_TYPE, load_cached
from spiky_rl.config import files
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.datasets.base import Dataset, Recording

log = logging.getLogger(__name__)

MAX_LOGGED = 20
"""Maximum number of skipped recordings that the log names."""


@dataclass(frozen=True)
class Samples:
    """All samples of a classification."""

    name: str
    """Name of the dataset."""
    size: tuple[int, int, int, int]
    """Size of a sample's frames: T, channels, rows, columns."""
    classes: tuple[str, ...]
    event_indices: np.ndarray
    """[events] of all samples: index in the sample's flat frames."""
    offsets: np.ndarray
    """[samples + 1]: first event of each sample."""
    labels: np.ndarray
    """[samples], int64."""
    parts: Sequence[str]
    """[samples]: part of the dataset's own split."""
    names: Sequence[str]
    """[samples]."""
    digests: np.ndarray
    """[samples]: hash of the sample's events."""
    scale: float = 1.0
    """Value of one event in a frame; 1 for frames of 0 and 1."""
    binary: bool = False
    """Whether frames are 0 or 1 instead of counts."""
    synthetic: str = ""
    """Description of the simulated sensor; empty if the recordings are real."""
    skipped: tuple[str, ...] = ()
    """The reason of each skipped recording."""
    window: tuple[int, int] = (0, 0)
    """Start and end of the time in the frames, see `Dataset.window`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns."""
        return self.size[1:]

    @property
    def digest(self) -> str:
        """Hash of recordings, labels and frames, independent of the recordings' folder and format."""
        text = repr((self.size, self.window, self.classes, self.scale, self.binary, list(self.names)))
        return hashlib.sha256(text.encode() + self.labels.tobytes() + self.digests.tobytes()).hexdigest()[:16]

    def gather_event_indices(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices of the events of some samples in the flat frames of these samples together, [events], int64."""
        indices = np.asarray(indices)
        of_samples = [self.event_indices[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        first = np.repeat(
            np.arange(len(of_samples)) * math.prod(self.size),
            [len(event_indices) for event_indices in of_samples],
        )
        return np.concatenate([np.zeros(0, INDEX_TYPE), *of_samples]).astype(np.int64) + first

    def fill_frames(self, event_indices: Tensor, count: int) -> Tensor:
        """Return the frames [B, T, channels, rows, columns] of ``count`` samples from the result of `gather_event_indices`, on its device."""
        frames = torch.zeros(count * math.prod(self.size), device=event_indices.device)
        frames.index_add_(0, event_indices, frames.new_ones(1).expand(event_indices.shape[0]))
        if self.binary:
            frames.clamp_(max=1.0)
        return (frames * self.scale if self.scale != 1.0 else frames).view(count, *self.size)

    def frames(self, indices: np.ndarray) -> Tensor:
        """Return the frames [B, T, channels, rows, columns] of samples: event counts times `scale`."""
        return self.fill_frames(torch.from_numpy(self.gather_event_indices(indices)), len(indices))


def get_data_folder(folder: Path | None = None) -> Path:
    """Return the folder of the data: ``folder``, else the environment's SPIKY_RL_DATA, else ``datasets`` in the cache folder."""
    return (folder or Path(os.environ.get("SPIKY_RL_DATA") or files.cache_folder() / "datasets")).absolute()


def load_samples(
    name: str,
    dataset: Dataset,
    recordings: Sequence[Recording],
    skip_bad: bool = False,
    open_progress: ProgressFactory = no_progress,
) -> Samples:
    """Return recordings of the dataset called ``name`` as samples. See `load_cached` for the other arguments and the errors."""
    if dataset.synthetic:
        log.warning("synthetic recordings (%s): results are not those of real recordings", dataset.synthetic)
    cached = load_cached(dataset, recordings, skip_bad, open_progress)
    chosen = [recordings[i] for i in cached.index]
    if cached.skipped:
        log.warning("skipped %d of %d recordings:", len(cached.skipped), len(recordings))
        for reason in cached.skipped[:MAX_LOGGED]:
            log.warning("  %s", reason)
        if len(cached.skipped) > MAX_LOGGED:
            log.warning("  and %d more", len(cached.skipped) - MAX_LOGGED)
    if "window" in dataset.settings() and (count := int((cached.ends > dataset.window[1]).sum())):
        last = cached.ends.argmax()
        log.warning(
            "dataset.window: %s; %d of %d recordings continue after it, %s until %d; later events are ignored",
            list(dataset.window), count, len(chosen), chosen[last].name, cached.ends[last],
        )  # fmt: skip
    return Samples(
        name=name,
        size=(dataset.bins, *dataset.shape),
        classes=dataset.classes,
        event_indices=cached.event_indices,
        offsets=cached.offsets,
        labels=np.array([r.label for r in chosen], np.int64),
        parts=[r.part for r in chosen],
        names=[r.name for r in chosen],
        digests=cached.digests,
        scale=1.0 if dataset.binary else dataset.scale,
        binary=dataset.binary,
        synthetic=dataset.synthetic,
        skipped=cached.skipped,
        window=dataset.window,
    )
