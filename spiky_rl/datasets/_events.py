"""Events of a sensor, and readers of their file formats.

A recording's file holds N-MNIST's bytes (``.bin``), a tensor of counts [time, channels, rows, columns] (``.npy``), or events as columns
t, x, y, p. A file of columns is a ``.npy`` [events, 4] or with named fields, a ``.npz`` with one array per column, or a ``.csv`` with or
without a header.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from spiky_rl.config.errors import get_error_text
from spiky_rl.config.registry import UserError
from spiky_rl.datasets._arrays import read_array, read_arrays

SUFFIXES = (".bin", ".npy", ".npz", ".csv", ".mat")
"""Suffixes of files that may be recordings."""
COLUMNS = ("t", "x", "y", "p")
OVERFLOW_ROW, OVERFLOW_US, EVENT_BYTES = 240, 1 << 13, 5
"""N-MNIST's bytes: the row that marks a time overflow, the microseconds it adds to all later times, and the bytes of an event."""
MAX_COUNT = 1 << 15
"""Maximum count in a tensor, per pixel, channel and step."""
MAX_EVENTS = 1 << 25
"""Maximum number of events in a recording; in memory they take a gigabyte."""
MAX_CHANNELS, MAX_PIXELS = 1000, 100_000
"""Maximum number of channels, and of rows or columns, of a sensor."""
LATEST = 1 << 53
"""Latest time of an event, in microseconds or steps."""
DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, csv.Error, zipfile.BadZipFile, zlib.error)
"""Exceptions of reading a damaged or foreign file."""


class EventFileError(UserError):
    """A recording is damaged, or has events that its sensor cannot send."""


class MissingData(UserError):
    """The files of a dataset are missing; the message says how to get them."""


@dataclass(frozen=True)
class Events:
    """The events of one recording, in any order."""

    x: np.ndarray
    """Column of each event, [events]."""
    y: np.ndarray
    """Row of each event, [events]."""
    p: np.ndarray
    """Channel of each event, [events]; with polarities, 1 if the signal rises and 0 if it falls."""
    t: np.ndarray
    """Times in microseconds, or in steps of a tensor, [events], int64."""
    steps: bool = False
    """Whether times are steps of a tensor."""

    def __len__(self) -> int:
        return len(self.t)


def decode_events(
    data: bytes, path: str, unit: float = 1.0, shape: tuple[int, int, int] | None = None
) -> Events:
    """Return the events in a file's content, in the format of its suffix. Raises EventFileError that names ``path`` and the fault.

    Args:
        unit: Microseconds per unit of the times in columns.
        shape: Required channels, rows and columns of a tensor; None for any.
    """
    if not data:
        raise EventFileError(f"{path}: is empty")
    kind = path.rpartition(".")[2].lower()
    if kind == "bin":
        return decode_bytes(data, path)
    try:
        content = _read_content(data, kind)
        if isinstance(content, Mapping):
            return decode_columns(content, path, unit)
    except EventFileError:
        raise
    except DAMAGE as error:
        raise EventFileError(f"{path}: not a recording, or damaged: {get_error_text(error)}") from None
    if shape is not None and content.ndim == 4 and content.shape[1:] != shape:
        raise EventFileError(
            f"{path}: is {list(content.shape)}; expected [time, {', '.join(map(str, shape))}] like the others"
        )
    return decode_tensor(content, path)


def _read_content(data: bytes, kind: str) -> Mapping[str, ArrayLike] | np.ndarray:
    """Return the columns t, x, y and p in the content of a file of the suffix ``kind``; the array of a .npy without columns.

    Raises one of `DAMAGE` if the content is invalid.
    """
    if kind == "csv":
        return _parse_csv(data.decode("utf-8-sig"))
    if kind == "npz":
        return read_arrays(io.BytesIO(data), COLUMNS)
    content = read_array(data, fields=COLUMNS)
    if names := content.dtype.names:
        if missing := [key for key in COLUMNS if key not in names]:
            raise ValueError(f"no field {missing[0]}; it has {', '.join(names)}")
        return {key: content[key] for key in COLUMNS}
    if content.ndim == 2 and content.shape[1] == len(COLUMNS):
        return dict(zip(COLUMNS, content.T, strict=True))
    return content


def decode_bytes(data: bytes, path: str) -> Events:
    """Return the events in N-MNIST's format: 5 bytes per event, which are x, y, and 24 bits of polarity and time.

    Raises EventFileError with ``path`` and the byte if the data are truncated.
    """
    if len(data) % EVENT_BYTES:
        whole = len(data) // EVENT_BYTES * EVENT_BYTES
        raise EventFileError(
            f"{path}: byte {whole}: the last event has {len(data) - whole} of {EVENT_BYTES} bytes; the file is truncated"
        )
    _require_count(len(data) // EVENT_BYTES, path)
    raw = np.frombuffer(data, np.uint8).reshape(-1, EVENT_BYTES)
    x, y, high, middle, low = (column.astype(np.int64) for column in raw.T)
    is_event = y != OVERFLOW_ROW
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW_US * np.cumsum(~is_event)
    return Events(x[is_event], y[is_event], high[is_event] >> 7, t[is_event])


def decode_tensor(counts: np.ndarray, path: str) -> Events:
    """Return the events of a tensor of ``counts`` [time, channels, rows, columns], with times in steps.

    Raises EventFileError with ``path`` if it is not such a tensor.
    """
    if counts.ndim != 4 or counts.dtype.kind not in "biuf":
        raise EventFileError(
            f"{path}: holds {counts.dtype} of shape {list(counts.shape)}; expected counts [time, channels, rows, columns], or events"
            " [events, 4] as columns t, x, y, p"
        )
    _require_count(int(np.count_nonzero(counts)), path)
    cells = np.argwhere(counts)
    count = counts[tuple(cells.T)]
    wrong = (count < 0) | (count > MAX_COUNT) | (count != np.floor(count))
    if wrong.any():
        raise EventFileError(
            f"{path}: holds {count[wrong][0].item()!r}; a tensor counts events: whole numbers from 0 to {MAX_COUNT}"
        )
    _require_count(int(count.sum(dtype=np.float64)), path)
    t, p, y, x = np.repeat(cells, count.astype(np.int64), 0).T
    return Events(x, y, p, t, steps=True)


def _check_column(key: str, values: np.ndarray, low: float, high: float, path: str) -> None:
    """Raise EventFileError with ``path`` and event unless all ``values`` are in range and, in columns other than t, whole numbers."""
    wrong = ~np.isfinite(values) if key == "t" else values != np.floor(values)
    wrong |= (values < low) | (values > high)
    if wrong.any():
        first = int(wrong.argmax())
        if values[first] > high:
            allowed = f"at most {int(high)}"
        else:
            allowed = "0 or more" if key == "t" else "a whole number of 0 or more"
        raise EventFileError(f"{path}: event {first}: {key} is {values[first]:g}; it must be {allowed}")


def decode_columns(columns: Mapping[str, ArrayLike], path: str, unit: float) -> Events:
    """Return the events of ``columns`` t, x, y, p. Values of p are 0 and 1, or -1 and 1; the unit of t is ``unit`` microseconds.

    Raises EventFileError with ``path`` and event for invalid values.
    """
    content = {key: np.asarray(columns[key], np.float64) for key in COLUMNS}
    sizes = {key: values.shape for key, values in content.items()}
    if len(set(sizes.values())) > 1 or content["t"].ndim != 1:
        raise EventFileError(
            f"{path}: t, x, y and p have shapes {', '.join(map(str, sizes.values()))}; they must be lists of equal length"
        )
    _require_count(len(content["t"]), path)
    lows = {"t": 0, "x": 0, "y": 0, "p": -1}
    highs = {"t": LATEST / unit, "x": MAX_PIXELS - 1, "y": MAX_PIXELS - 1, "p": MAX_CHANNELS - 1}
    for key, values in content.items():
        _check_column(key, values, lows[key], highs[key], path)
    t = np.rint(content["t"] * unit).astype(np.int64)
    x, y, p = (content[key].astype(np.int64) for key in "xyp")
    return Events(x, y, np.maximum(p, 0), t)


def _require_count(count: int, path: str) -> None:
    """Raise EventFileError with ``path`` if ``count`` exceeds the maximum, before memory is allocated."""
    if count > MAX_EVENTS:
        raise EventFileError(f"{path}: holds {count:,} events; a recording has at most {MAX_EVENTS:,}")


def _parse_csv(text: str) -> dict[str, array[float]]:
    """Return the columns of a CSV by its header; without a header they are t, x, y, p. Raises ValueError."""
    rows: Iterator[list[str]] = filter(None, csv.reader(io.StringIO(text)))
    first = next(rows, [])
    header = [cell.strip().lower() for cell in first]
    if set(header).isdisjoint(COLUMNS):  # the first row is an event
        header, rows = list(COLUMNS), chain([first] if first else [], rows)
    if missing := [key for key in COLUMNS if key not in header]:
        raise ValueError(f"no column {missing[0]}; it has {', '.join(header)}")
    position = {key: header.index(key) for key in COLUMNS}
    columns = {key: array("d") for key in COLUMNS}
    for count, row in enumerate(rows):
        if count == MAX_EVENTS:
            raise ValueError(f"holds more than {MAX_EVENTS:,} events")
        for key, i in position.items():
            columns[key].append(float(row[i]) if i < len(row) else np.nan)
    return columns


def check_events(events: Events, path: str, shape: tuple[int, int, int]) -> None:
    """Raise EventFileError with ``path`` if there are no events, or an event outside the sensor of ``shape`` [channels, rows, columns]."""
    if len(events) == 0:
        raise EventFileError(f"{path}: holds no events")
    for axis, values, size in zip(
        ("channel", "row", "column"), (events.p, events.y, events.x), shape, strict=True
    ):
        outside = (values < 0) | (values >= size)
        if outside.any():
            first = int(outside.argmax())
            pixel = f"column {events.x[first]}, row {events.y[first]}, channel {events.p[first]}"
            raise EventFileError(
                f"{path}: event {first} is at {pixel}; this sensor has {axis}s from 0 to {size - 1}"
            )
