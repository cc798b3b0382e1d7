"""N-MNIST: 60,000 + 10,000 recordings of MNIST's digits by an ATIS sensor of 34 x 34 pixels that made three saccades.

An event is 5 bytes: x, y, then the polarity in the highest bit and 23 bits of microseconds. y = 240 is no event: from there
on 2^13 microseconds are to be added. The files lie in Train/<class>/NNNNN.bin and Test/<class>/NNNNN.bin, where NNNNN
counts MNIST's images from 1. ``nmnist_*.npz`` is the same in one file: addr = (y*34 + x)*2 + p, dt = microseconds since the
event before, off = first event of each recording, label.

Source: Orchard et al. (2015), doi 10.17632/468j46mzdv.1. Checksums: those that Tonic 1.5.0 (PyPI) checks the same two addresses by.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spiky_rl.datasets.download import Archive
from spiky_rl.datasets.events import (
    EventFileError,
    Events,
    Files,
    MissingData,
    Recordings,
    check_places,
    read_bytes,
)

SIDE = 34
OVERFLOW, OVERFLOW_US = 240, 1 << 13
SIZE = 5
_BASE = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
ARCHIVES = (
    Archive(
        "train.zip",
        {
            "sha256": "1a54ee392a5e5082a0bef52911cd9211f63b950a4905ccd8890553804d3335f9",
            "md5": "20959b8e626244a1b502305a9e6e2031",
        },
        f"{_BASE}/39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
        "Train",
    ),
    Archive(
        "test.zip",
        {
            "sha256": "6ecfd5d85dbb49a631961d8dc3101871c5be53e645004ee34064f6557d169f09",
            "md5": "69ca8762b2fe404d9b9bad1103e97832",
        },
        f"{_BASE}/05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",
        "Test",
    ),
)
FOLDERS = ("nmnist", "NMNIST", ".")
"""Where below the data folder it may lie."""


def decode(data: bytes, path: Path) -> Events:
    """The events in a recording's bytes. Raises EventFileError that names ``path`` and the byte."""
    if len(data) % SIZE:
        whole = len(data) // SIZE * SIZE
        raise EventFileError(
            f"{path}: byte {whole}: the last event has {len(data) - whole} of {SIZE} bytes; the file is truncated"
        )
    raw = np.frombuffer(data, np.uint8).reshape(-1, SIZE)
    x, y, high, middle, low = (column.astype(np.int64) for column in raw.T)
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW_US * np.cumsum(y == OVERFLOW)
    kept = y != OVERFLOW
    events = Events(x[kept], y[kept], high[kept] >> 7, t[kept])
    check_places(path, events, (SIDE, SIDE), SIZE * np.flatnonzero(kept))
    return events


class NMnist(Recordings):
    """What all forms of it share."""

    name = "nmnist"
    sensor = (SIDE, SIDE)
    classes = 10
    window = (0, 300_000)


class NMnistFiles(NMnist, Files):
    """The dataset's own layout."""

    suffix = ".bin"

    def read(self, index: int) -> Events:  # noqa: D102
        path = self.paths[index]
        return decode(read_bytes(path), path)


class NMnistPacked(NMnist):
    """All recordings in one .npz; none of them is of the test set."""

    def __init__(self, path: Path) -> None:
        """Raises EventFileError for a file that is damaged or does not hold such recordings."""
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = [np.asarray(held[key]) for key in ("addr", "dt", "off", "label")]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise EventFileError(f"{path}: no packed recordings, or damaged ones: {error}") from None
        self.address, gaps, self.offsets, labels = arrays
        if not all(array.ndim == 1 and array.dtype.kind in "iu" for array in arrays) or labels.size == 0:
            raise EventFileError(
                f"{path}: addr, dt, off and label must be lists of whole numbers, none of them empty"
            )
        sound = (
            len(self.offsets) == len(labels) + 1
            and len(self.address) == len(gaps) == self.offsets[-1]
            and self.offsets[0] == 0
            and (np.diff(self.offsets) >= 0).all()
        )
        if not sound:
            raise EventFileError(f"{path}: off does not divide addr and dt into as many recordings as labels")
        if unknown := sorted({*labels.tolist()} - {*range(self.classes)}):
            raise EventFileError(f"{path}: label {unknown[0]} is none of 0 to {self.classes - 1}")
        outside = np.flatnonzero((self.address < 0) | (self.address >= SIDE * SIDE * 2))
        if len(outside):
            raise EventFileError(f"{path}: addr[{outside[0]}]: {self.address[outside[0]]} is no pixel")
        self.gaps, self.labels, self.of_test = gaps, np.asarray(labels, np.int64), np.zeros(len(labels), bool)

    def read(self, index: int) -> Events:  # noqa: D102
        own = slice(self.offsets[index], self.offsets[index + 1])
        place, p = np.divmod(self.address[own].astype(np.int64), 2)
        y, x = np.divmod(place, SIDE)
        return Events(x, y, p, np.cumsum(self.gaps[own], dtype=np.int64))

    def contents(self) -> Iterator[bytes]:  # noqa: D102
        for array in (self.address, self.gaps, self.offsets, self.labels):
            yield np.ascontiguousarray(array).tobytes()


def find(data: Path) -> NMnist:
    """The dataset below the folder ``data``: its files, else a packed form. Raises MissingData with what to do."""
    for folder in (data / name for name in FOLDERS):
        present = [part for part in ("Train", "Test") if (folder / part).is_dir()]
        if present:
            return NMnistFiles([folder / part for part in present], [part == "Test" for part in present])
        if packed := sorted(folder.glob("nmnist_*.npz")):
            return NMnistPacked(packed[0])
    raise MissingData(
        f"N-MNIST is not in {str(data)!r}: pass --download to fetch it (1.2 GB), --data DIR if it lies elsewhere, or"
        f" --synthetic to simulate it. By hand: get {' and '.join(a.name for a in ARCHIVES)} from"
        f" https://doi.org/10.17632/468j46mzdv.1 and unpack them into {str(data / FOLDERS[0])!r}"
    )
