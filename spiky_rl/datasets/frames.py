"""Frames: events counted per pixel, polarity and time bin, and kept on disk under a hash of what they were made from.

    frame[k, p, y, x] = number of events with p at (x, y) in [start + k w, start + (k + 1) w),   w = (end - start) // bins

Bins begin at a fixed time and not at the first event, so that a bin means the same in every recording.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spiky_rl import files
from spiky_rl.datasets.events import Events, Recordings
from spiky_rl.registry import UserError

log = logging.getLogger(__name__)

VERSION = 1
"""Of what is kept on disk: another one makes the frames anew."""


@dataclass(frozen=True)
class Binning:
    """How events become frames [bins, 2, rows, columns]."""

    bins: int
    """T, control steps of the network."""
    start: int
    """Microseconds."""
    end: int
    """Microseconds; what happens then or later is left out."""
    sensor: tuple[int, int]
    """Rows and columns."""
    binary: bool = False
    """Whether a frame says that there were events, or how many."""

    def __post_init__(self) -> None:
        if not 0 < self.bins <= self.end - self.start:
            raise UserError(
                f"bins: {self.bins} do not fit {self.end - self.start} microseconds; at least 1 of 1 microsecond or more"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[bins, polarities, rows, columns]."""
        return (self.bins, 2, *self.sensor)

    def __call__(self, events: Events) -> np.ndarray:
        """The frames of one recording: int16 counts, or uint8 zeros and ones."""
        rows, columns = self.sensor
        k = (events.t - self.start) // ((self.end - self.start) // self.bins)
        inside = (k >= 0) & (k < self.bins)
        place = (((k * 2 + events.p) * rows + events.y) * columns + events.x)[inside]
        counts = np.bincount(place, minlength=int(np.prod(self.shape))).reshape(self.shape)
        return (counts > 0).astype(np.uint8) if self.binary else counts.astype(np.int16)


def digest(recordings: Recordings) -> str:
    """Hash of recordings, labels and split: equal wherever they lie."""
    found = hashlib.sha256()
    for piece in recordings.contents():
        found.update(piece)
    return found.hexdigest()[:16]


def frames(recordings: Recordings, binning: Binning, of: str) -> np.ndarray:
    """Frames of all recordings, [recordings, bins, 2, rows, columns], mapped from disk; ``of``: their `digest`."""
    transform = repr((VERSION, sorted(asdict(binning).items())))
    key = hashlib.sha256(f"{of} {transform}".encode()).hexdigest()[:16]
    path = files.cache_folder() / "frames" / f"{recordings.name}-{key}.npy"
    if not path.is_file():
        log.info("counting the events of %d recordings into %d bins: %s", len(recordings), binning.bins, path)
        files.write(path, lambda beside: _fill(beside, recordings, binning))
    return np.load(path, mmap_mode="r")


def _fill(place: Path, recordings: Recordings, binning: Binning) -> None:
    kind = np.uint8 if binning.binary else np.int16
    held = np.lib.format.open_memmap(place, "w+", kind, (len(recordings), *binning.shape))
    for index in range(len(recordings)):
        held[index] = binning(recordings.read(index))
    held.flush()
