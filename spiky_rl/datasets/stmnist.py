"""ST-MNIST: 6,953 digits that people wrote on an event-based tactile sensor of 10 x 10 taxels.

A recording is a MATLAB 5 file whose ``spiketrain`` is [101, n]: rows 0 to 99 are taxels, row % 10 being the column, and hold
1 where the pressure rose, -1 where it fell; row 100 is the time in seconds. The files lie in <class>/*.mat. There is no
official split, and the authors ask for a form to be filled in, so nothing here downloads it.

Source: See et al. (2020), ST-MNIST: the spiking tactile MNIST neuromorphic dataset.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from spiky_rl.datasets.download import Archive
from spiky_rl.datasets.events import EventFileError, Events, Files, MissingData, read_bytes

SIDE = 10
HEADER = 128
"""Bytes before the first element of a MATLAB 5 file."""
ARCHIVE = Archive(
    "STMNIST dataset NUS Tee Research Group.zip",
    {"sha256": "825bb5a64753fff4a2a2c32e3497fa8a951d9c94993e03ba25a057e17d83b884"},
    "https://scholarbank.nus.edu.sg/bitstream/10635/168106/2/STMNIST%20dataset%20NUS%20Tee%20Research%20Group.zip",
    "",
)
FOLDERS = ("stmnist", "STMNIST")
"""Where below the data folder it may lie."""


def decode(path: Path) -> Events:
    """The events of a recording. Raises EventFileError that names ``path`` and the byte, row or column."""
    from scipy.io import loadmat

    _check_whole(path)
    try:
        train = loadmat(path, variable_names=["spiketrain"]).get("spiketrain")
    except (
        Exception
    ) as error:  # pylint: disable=broad-exception-caught  # a damaged file trips scipy anywhere
        raise EventFileError(f"{path}: byte {HEADER} and after: no readable MATLAB 5 data: {error}") from None
    if train is None or train.ndim != 2 or train.shape[0] != SIDE * SIDE + 1:
        shape = "absent" if train is None else train.shape
        raise EventFileError(f"{path}: spiketrain is {shape}; it must be [{SIDE * SIDE + 1}, events]")
    seconds, values = train[-1], train[:-1].T
    if not np.isfinite(seconds).all() or (seconds < 0).any() or not np.isin(values, (-1, 0, 1)).all():
        raise EventFileError(
            f"{path}: spiketrain must hold -1, 0 and 1, and times of 0 or more in its last row"
        )
    column, taxel = values.nonzero()
    y, x = np.divmod(taxel, SIDE)
    t = np.rint(seconds[column] * 1e6).astype(np.int64)
    return Events(x, y, (values[column, taxel] > 0).astype(np.int64), t)


def _check_whole(path: Path) -> None:
    """Raise EventFileError at the first element of a MATLAB 5 file that does not fit into it."""
    data = read_bytes(path)
    if len(data) < HEADER:
        raise EventFileError(f"{path}: byte {len(data)}: the file ends within its header of {HEADER} bytes")
    order = "<" if data[126:128] == b"IM" else ">"
    place = HEADER
    while place < len(data):
        end = place + 8
        if end <= len(data):
            end += struct.unpack(f"{order}2I", data[place:end])[1]
        if end > len(data):
            raise EventFileError(
                f"{path}: byte {place}: an element that ends at byte {end} of {len(data)}; the file is truncated"
            )
        place = end


class StMnist(Files):
    """The dataset's own layout."""

    name = "stmnist"
    sensor = (SIDE, SIDE)
    classes = 10
    window = (0, 2_000_000)
    suffix = ".mat"

    def read(self, index: int) -> Events:  # noqa: D102
        return decode(self.paths[index])


def find(data: Path) -> StMnist:
    """The dataset below the folder ``data``, unpacked there if only its archive is. Raises MissingData with what to do."""
    for folder in (data / name for name in FOLDERS):
        if (folder / ARCHIVE.name).is_file() and not any(folder.rglob("[0-9]/*.mat")):
            ARCHIVE.unpack(folder)
        if found := sorted(folder.rglob("0/*.mat")):
            return StMnist([found[0].parent.parent], [False])
    raise MissingData(
        f"ST-MNIST is not in {str(data)!r}, and its authors ask for a form to be filled in: get"
        f" {ARCHIVE.name!r} from {ARCHIVE.url} and put it into {str(data / FOLDERS[0])!r}, packed or unpacked;"
        " --data DIR if it lies elsewhere"
    )
