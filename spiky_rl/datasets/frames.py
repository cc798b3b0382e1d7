"""Frames: events counted per pixel, polarity and time bin, and kept on disk under a hash of what they were made from.

    frame[k, p, y, x] = number of events with p at (x, y) in [start + k w, start + (k + 1) w),   w = (end - start) // bins

Bins begin at a fixed time and not at the first event, so that a bin means the same in every recording.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spiky_rl.config import files
from spiky_rl.config.registry import UserError
from spiky_rl.datasets.events import Events, Recordings

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
    shape, kind = (len(recordings), *binning.shape), np.uint8 if binning.binary else np.int16
    if (held := _kept(path, shape, kind)) is not None:
        return held
    log.info("counting the events of %d recordings into %d bins: %s", len(recordings), binning.bins, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(path.parent).free, math.prod(shape) * np.dtype(kind).itemsize
        if needed > free:
            raise UserError(
                f"bins: {binning.bins} bins of {len(recordings)} recordings take {needed / 1e9:.3g} GB, and {path.parent} has"
                f" {free / 1e9:.3g} GB left; take fewer, or set SPIKY_RL_CACHE to another folder"
            )
        files.write(path, lambda beside: _fill(beside, recordings, binning, shape, kind))
    except OSError as error:
        raise UserError(
            f"frames cannot be kept in {str(path.parent)!r}: {error.strerror or error}; set SPIKY_RL_CACHE to another folder"
        ) from None
    return np.load(path, mmap_mode="r")


def _kept(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray | None:
    """What lies on the disk, mapped; None where there is nothing, or something damaged."""
    if not path.is_file():
        return None
    try:
        held = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s: damaged frames (%s); they are made anew", path, error)
        return None
    return held if held.shape == shape and held.dtype == kind else None


def _fill(
    place: Path, recordings: Recordings, binning: Binning, shape: tuple[int, ...], kind: type[np.generic]
) -> None:
    held = np.lib.format.open_memmap(place, "w+", kind, shape)
    for index in range(len(recordings)):
        held[index] = binning(recordings.read(index))
    held.flush()
