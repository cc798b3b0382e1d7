"""N-MNIST: 60,000 + 10,000 recordings of MNIST's digits by an ATIS sensor of 34 x 34 pixels that makes three saccades.

An event is 5 bytes: x, y, then the polarity in the highest bit and 23 bits of microseconds. y = 240 is not an event: it adds 2^13
microseconds to all later times. The files are Train/<class>/NNNNN.bin and Test/<class>/NNNNN.bin, or inside of train.zip and test.zip;
NNNNN counts MNIST's images from 1. ``nmnist_*.npz`` has the same in one file: addr = (y*34 + x)*2 + p, dt = microseconds since the
previous event, off = first event of each recording, label, and id = NNNNN. A fault of one recording in it is reported when that recording
is read, so that it can be skipped; a fault of the file makes all recordings unreadable.

Source: Orchard et al. (2015), doi 10.17632/468j46mzdv.1. The checksums are those of Tonic 1.5.0 (PyPI) for the same two addresses.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import override

import numpy as np

from spiky_rl.config.registry import UserError
from spiky_rl.datasets._arrays import list_arrays, read_arrays
from spiky_rl.datasets._download import DatasetArchive
from spiky_rl.datasets._events import DAMAGE, EventFileError, Events, MissingData, decode_events
from spiky_rl.datasets._store import RecordingStore, format_unpack_hint, make_read_error
from spiky_rl.datasets.base import UNKNOWN, Dataset, Recording

SIDE, DIGITS = 34, 10
LARGEST = 1 << 33
"""Maximum unpacked bytes of a file of many recordings; all 60,000 take a quarter of it."""
MAX_GAP_US = 2**31 - 1
"""Maximum time between two events, more than half an hour, so that no sum of times overflows."""
_BASE = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
ARCHIVES = (
    DatasetArchive(
        "train.zip",
        {
            "sha256": "1a54ee392a5e5082a0bef52911cd9211f63b950a4905ccd8890553804d3335f9",
            "md5": "20959b8e626244a1b502305a9e6e2031",
        },
        f"{_BASE}/39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
        "Train",
    ),
    DatasetArchive(
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
"""Possible folders and archives below the data folder."""


class NMnist(Dataset):
    """The published recordings, packed or unpacked, or all in one .npz."""

    title = "N-MNIST"
    licence = "Creative Commons Attribution 4.0"
    source = "https://doi.org/10.17632/468j46mzdv.1"
    shape = (2, SIDE, SIDE)
    window = (0, 300_000)
    classes = tuple("0123456789")
    archives, home = ARCHIVES, FOLDERS[0]
    shift, rotation = 2.0, 10.0
    packed: _Packed | None = None

    def list_recordings(self) -> list[Recording]:
        for folder in (self.data / name for name in FOLDERS):
            recordings = [r for archive in ARCHIVES for r in _list_part(folder, archive)]
            if recordings:
                return recordings
            if found := sorted(folder.glob("nmnist_*.npz")):
                if len(found) > 1:
                    raise UserError(
                        f"{found[0]}: there is {found[1].name} beside it; allowed: one nmnist_*.npz"
                    )
                self.packed = _Packed(found[0])
                return self.packed.list_recordings()
        raise MissingData(
            f"N-MNIST is not in {str(self.data)!r}: pass --download to fetch it (1.2 GB), --data DIR if it is elsewhere, or"
            f" --dataset nmnist_synthetic to simulate it. By hand: get {' and '.join(a.name for a in ARCHIVES)} from"
            f" {self.source} and put them into {str(self.data / self.home)!r}, packed or unpacked"
            f"{format_unpack_hint(*(self.data / name for name in FOLDERS), dataset='nmnist')}"
        )

    @override
    def read_events(self, recording: Recording) -> Events:
        if self.packed is not None:
            return self.packed.read_events(recording.row, self.path(recording))
        assert recording.store is not None
        return decode_events(recording.store.read(recording.member), self.path(recording))

    @override
    def path(self, recording: Recording) -> str:
        path = super().path(recording)
        return path if self.packed is None else f"{path}: row {recording.row} ({recording.name})"


def _list_part(folder: Path, archive: DatasetArchive) -> list[Recording]:
    """Return the recordings of Train or Test, from the folder, else from the archive."""
    if (folder / archive.folder).is_dir():
        store = RecordingStore(folder / archive.folder, f"{archive.folder}/")
    elif (folder / archive.name).is_file():
        store = RecordingStore(folder / archive.name)
    else:
        return []
    part = "test" if archive.folder == "Test" else "train"
    matches = store.match_names(rf"^({archive.folder}/([0-9])/[^/]+)\.bin\Z")
    if not matches:
        raise MissingData(
            f"{store.root}: contains no recording 0/*.bin to 9/*.bin{format_unpack_hint(store)}"
        )
    return [Recording(match[1], int(match[2]), part, store, name) for match, name in matches]


class _Packed:
    """Recordings of the training set in one .npz. Labels are read at once, events with the first recording."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if the file is damaged or holds no such recordings."""
        self.path, self.store = path, RecordingStore(path.parent)
        self.labels, self.ids = self._read_arrays("label", "id")

    def _read_arrays(self, *keys: str) -> list[np.ndarray]:
        """Read lists of whole numbers; an absent ``id`` is 1, 2, ... Raises UserError."""
        try:
            with self.store.open(self.path.name) as file:
                present = [key for key in ("label", *keys) if key != "id" or key in list_arrays(file)]
                arrays_by_key = read_arrays(file, present, most=LARGEST)
        except OSError as error:
            raise make_read_error(self.path, error) from None
        except DAMAGE as error:
            raise UserError(f"{self.path}: not packed recordings, or damaged: {error}") from None
        arrays = [arrays_by_key.get(key, np.arange(1, arrays_by_key["label"].size + 1)) for key in keys]
        for key, array in zip(keys, arrays, strict=True):
            if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
                raise UserError(f"{self.path}: {key} must be a list of whole numbers that is not empty")
        return arrays

    def list_recordings(self) -> list[Recording]:
        """Return one recording per label. A recording with a label that is no digit has a fault."""
        if len(self.ids) != len(self.labels):
            raise UserError(f"{self.path}: {len(self.ids)} values of id and {len(self.labels)} of label")
        recordings = []
        for row, (label, number) in enumerate(zip(self.labels.tolist(), self.ids.tolist(), strict=True)):
            name, is_digit = f"Train/{label}/{number:05}", 0 <= label < DIGITS
            fault = "" if is_digit else f"label {label} given; allowed: 0 to {DIGITS - 1}"
            known = label if is_digit else UNKNOWN
            recordings.append(Recording(name, known, "train", self.store, self.path.name, row, fault))
        return recordings

    @cached_property
    def events(self) -> list[np.ndarray]:
        """The arrays addr, dt and off. Raises UserError if they are inconsistent."""
        address, gaps, offsets = arrays = self._read_arrays("addr", "dt", "off")
        is_consistent = (
            len(offsets) == len(self.labels) + 1
            and len(address) == len(gaps) == offsets[-1]
            and offsets[0] == 0
            and (np.diff(offsets.astype(np.int64)) >= 0).all()
        )
        if not is_consistent:
            raise UserError(f"{self.path}: off does not divide addr and dt into as many recordings as labels")
        return arrays

    def read_events(self, row: int, path: str) -> Events:
        """Return the events of the recording in ``row``. Raises EventFileError with ``path`` for an invalid pixel or time."""
        address, gaps, offsets = self.events
        own = slice(offsets[row], offsets[row + 1])
        for key, values, high in (("addr", address[own], SIDE * SIDE * 2 - 1), ("dt", gaps[own], MAX_GAP_US)):
            wrong = (values < 0) | (values > high)
            if wrong.any():
                first = int(wrong.argmax())
                raise EventFileError(
                    f"{path}: event {first}: {key} is {values[first]}; it must be between 0 and {high}"
                )
        pixel, p = np.divmod(address[own].astype(np.int64), 2)
        y, x = np.divmod(pixel, SIDE)
        return Events(x, y, p, np.cumsum(gaps[own], dtype=np.int64))
