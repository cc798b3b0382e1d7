"""ST-MNIST: 6,953 digits that people wrote on an event-based tactile sensor of 10 x 10 taxels.

A recording is a MATLAB 5 file with an array ``spiketrain`` [101, n]. Rows 0 to 99 are taxels, with column = row % 10; they are 1 where
the pressure rises and -1 where it falls. Row 100 is the time in seconds. The files are <class>/*.mat. There is no official split. The
authors require a form, so this package cannot download it.

Source: See et al. (2020), ST-MNIST: the spiking tactile MNIST neuromorphic dataset.
"""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import override

import numpy as np

from spiky_rl.datasets._arrays import LARGEST, NUMBERS
from spiky_rl.datasets._events import LATEST, EventFileError, Events, MissingData
from spiky_rl.datasets._store import find_stores, format_unpack_hint
from spiky_rl.datasets.base import Dataset, Recording, declare_bins

SIDE = 10
COMPRESSED, CHUNK = 15, 1 << 20
"""MATLAB's type number of a compressed element, and the bytes that are unpacked at once."""
HEADER = 128
"""Bytes of the header of a MATLAB 5 file."""
ARCHIVE = "STMNIST dataset NUS Tee Research Group.zip"
FOLDERS = ("stmnist", "STMNIST", f"stmnist/{ARCHIVE}", ARCHIVE, ".")
"""Possible folders and archives below the data folder, unpacked or packed."""


def decode(data: bytes, path: str) -> Events:
    """Return the events in a file's content. Raises EventFileError with ``path`` and the byte, row or column of the fault."""
    from scipy.io import loadmat

    _check_whole(data, path)
    try:
        train = loadmat(io.BytesIO(data), variable_names=["spiketrain"]).get("spiketrain")
    except Exception as error:  # pylint: disable=broad-exception-caught
        # a damaged file trips scipy anywhere
        raise EventFileError(f"{path}: byte {HEADER} and after: no readable MATLAB 5 data: {error}") from None
    if not isinstance(train, np.ndarray) or train.ndim != 2 or train.shape[0] != SIDE * SIDE + 1:
        shape = "absent" if train is None else train.shape
        raise EventFileError(f"{path}: spiketrain is {shape}; it must be [{SIDE * SIDE + 1}, events]")
    if train.dtype.kind not in NUMBERS:
        raise EventFileError(f"{path}: spiketrain holds {train.dtype}; it must hold numbers")
    seconds, values = train[-1], train[:-1].T
    in_time = np.isfinite(seconds) & (seconds >= 0) & (seconds <= LATEST / 1e6)
    if not in_time.all() or not np.isin(values, (-1, 0, 1)).all():
        raise EventFileError(
            f"{path}: spiketrain must hold -1, 0 and 1, and times of 0 or more in its last row"
        )
    column, taxel = values.nonzero()
    y, x = np.divmod(taxel, SIDE)
    t = np.rint(seconds[column] * 1e6).astype(np.int64)
    return Events(x, y, (values[column, taxel] > 0).astype(np.int64), t)


def _check_whole(data: bytes, path: str) -> None:
    """Raise EventFileError if an element of a MATLAB 5 file ends beyond the file."""
    if len(data) < HEADER:
        raise EventFileError(f"{path}: byte {len(data)}: the file ends within its header of {HEADER} bytes")
    order = "<" if data[126:128] == b"IM" else ">"
    start = HEADER
    while start < len(data):
        end = start + 8
        kind = 0
        if end <= len(data):
            kind, size = struct.unpack(f"{order}2I", data[start:end])
            end += size
        if end > len(data):
            raise EventFileError(
                f"{path}: byte {start}: an element that ends at byte {end} of {len(data)}; the file is truncated"
            )
        if kind == COMPRESSED:
            _check_unpacked(memoryview(data)[start + 8 : end], f"{path}: byte {start}")
        start = end


def _check_unpacked(data: memoryview, where: str) -> None:
    """Raise EventFileError that begins with ``where`` if ``data`` unpack to more than `LARGEST` bytes; scipy reports damaged data."""
    packed, size = zlib.decompressobj(), 0
    with suppress(zlib.error):
        while chunk := packed.decompress(data, CHUNK):
            size, data = size + len(chunk), memoryview(packed.unconsumed_tail)
            if size > LARGEST:
                raise EventFileError(f"{where}: unpacks to more than {LARGEST:,} bytes")


class StMnist(Dataset):
    """The published recordings, packed or unpacked."""

    title = "ST-MNIST"
    licence = "on request from its authors"
    source = "https://scholarbank.nus.edu.sg/handle/10635/168106"
    shape = (2, SIDE, SIDE)
    window = (0, 2_000_000)
    classes = tuple("0123456789")

    class Options(Dataset.Options):
        bins: int = declare_bins(25)

    agent = "lif_conv_small_classifier"
    shift, rotation = 1.0, 10.0

    def list_recordings(self) -> list[Recording]:
        for store in find_stores(self.data, FOLDERS):
            # a table of the taxels, LUT, is among the recordings
            matches = [
                pair for pair in store.match_names(r"(?:^|/)(([0-9])/[^/]+)\.mat$") if "LUT" not in pair[1]
            ]
            if matches:
                return [Recording(m[1], int(m[2]), "train", store, name) for m, name in matches]
        raise MissingData(
            f"ST-MNIST is not in {str(self.data)!r}, and its authors require a form: get {ARCHIVE!r} from"
            f" {self.source} and put it into {str(self.data / FOLDERS[0])!r}, packed or unpacked; --data DIR if it is elsewhere"
            f"{format_unpack_hint(*(self.data / name for name in FOLDERS), dataset='stmnist')}"
        )

    @override
    def read_events(self, recording: Recording) -> Events:
        assert recording.store is not None
        return decode(recording.store.read(recording.member), self.path(recording))
