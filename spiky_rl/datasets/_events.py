"""Events: what an event sensor sends, and the files that people keep them in.

A recording's file is one of four: N-MNIST's bytes (``.bin``), a tensor of counts [time, channels, rows, columns] (``.npy``), or
events as columns t, x, y, p (``.npy`` [events, 4] or with named fields, ``.npz`` with an array each, ``.csv`` with or without a header).
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike

from spiky_rl.config.registry import UserError
from spiky_rl.datasets._arrays import read_array, read_arrays

SUFFIXES = (".bin", ".npy", ".npz", ".csv", ".mat")
"""Endings of files that may be recordings."""
COLUMNS = ("t", "x", "y", "p")
OVERFLOW, OVERFLOW_US, SIZE = 240, 1 << 13, 5
"""N-MNIST's bytes: the row that is no event, what it adds to all later times, and the bytes of an event."""
MAX_EVENTS = 1 << 15
"""Events of one pixel, channel and step that a tensor may count."""
MOST_EVENTS = 1 << 25
"""Events of a recording: in memory they take a gigabyte."""
MOST_CHANNELS, MOST_PIXELS, LATEST = 1000, 100_000, 1 << 53
"""Channels, and rows or columns, of a sensor; microseconds or steps until a recording ends."""
DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, csv.Error, zipfile.BadZipFile, zlib.error)
"""What reading a damaged or foreign file raises."""


class EventFileError(UserError):
    """A recording that is damaged or holds what its sensor cannot send."""


class MissingData(UserError):
    """A dataset that is not where it was looked for: the message says how to get it."""


@dataclass(frozen=True)
class Events:
    """One recording. A time may stand anywhere; nothing here relies on their order."""

    x: np.ndarray
    """[events], columns."""
    y: np.ndarray
    """[events], rows."""
    p: np.ndarray
    """[events], channels; of a sensor with polarities 1 where the signal rises, 0 where it falls."""
    t: np.ndarray
    """[events], microseconds, or steps of a tensor; int64."""
    steps: bool = False
    """Whether times are steps of a tensor."""

    def __len__(self) -> int:
        return len(self.t)


def decode_events(
    data: bytes, path: str, unit: float = 1.0, shape: tuple[int, int, int] | None = None
) -> Events:
    """The events in a file's bytes, by the ending of its name.

    Args:
        data: What the file holds.
        path: Its name, for messages.
        unit: Microseconds of a unit of time, where events stand in columns.
        shape: Channels, rows and columns that a tensor must have; None: any.

    Raises:
        EventFileError: One line that names ``path`` and what is wrong with it.
    """
    if not data:
        raise EventFileError(f"{path}: is empty")
    kind = path.rpartition(".")[2].lower()
    if kind == "bin":
        return decode_bytes(data, path)
    try:
        if kind == "csv":
            return decode_columns(_table(data.decode("utf-8-sig")), path, unit)
        if kind == "npz":
            return decode_columns(read_arrays(io.BytesIO(data), COLUMNS), path, unit)
        held = read_array(data, fields=COLUMNS)
        if names := held.dtype.names:
            if missing := [key for key in COLUMNS if key not in names]:
                raise ValueError(f"no field {missing[0]}; it has {', '.join(names)}")
            return decode_columns({key: held[key] for key in COLUMNS}, path, unit)
        if held.ndim == 2 and held.shape[1] == len(COLUMNS):
            return decode_columns(dict(zip(COLUMNS, held.T, strict=True)), path, unit)
    except EventFileError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise EventFileError(f"{path}: no recording, or a damaged one: {reason}") from None
    if shape is not None and held.ndim == 4 and held.shape[1:] != shape:
        raise EventFileError(
            f"{path}: is {list(held.shape)}; expected [time, {', '.join(map(str, shape))}] as of the others"
        )
    return decode_tensor(held, path)


def decode_bytes(data: bytes, path: str) -> Events:
    """The events in ``data`` in N-MNIST's format, 5 bytes each: x, y, then polarity and time. Raises EventFileError that names ``path`` and byte."""
    if len(data) % SIZE:
        whole = len(data) // SIZE * SIZE
        raise EventFileError(
            f"{path}: byte {whole}: the last event has {len(data) - whole} of {SIZE} bytes; the file is truncated"
        )
    _require_count(len(data) // SIZE, path)
    raw = np.frombuffer(data, np.uint8).reshape(-1, SIZE)
    x, y, high, middle, low = (column.astype(np.int64) for column in raw.T)
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW_US * np.cumsum(y == OVERFLOW)
    is_event = y != OVERFLOW
    return Events(x[is_event], y[is_event], high[is_event] >> 7, t[is_event])


def decode_tensor(held: np.ndarray, path: str) -> Events:
    """The events that a tensor ``held`` [time, channels, rows, columns] counts, times in steps. Raises EventFileError that names ``path``."""
    if held.ndim != 4 or held.dtype.kind not in "biuf":
        raise EventFileError(
            f"{path}: holds {held.dtype} of shape {list(held.shape)}; expected counts [time, channels, rows, columns], or events"
            " [events, 4] as columns t, x, y, p"
        )
    _require_count(int(np.count_nonzero(held)), path)
    place = np.argwhere(held)
    count = held[tuple(place.T)]
    wrong = (count < 0) | (count > MAX_EVENTS) | (count != np.floor(count))
    if wrong.any():
        raise EventFileError(
            f"{path}: holds {count[wrong][0].item()!r}; a tensor counts events: whole numbers from 0 to {MAX_EVENTS}"
        )
    _require_count(int(count.sum(dtype=np.float64)), path)
    t, p, y, x = np.repeat(place, count.astype(np.int64), 0).T
    return Events(x, y, p, t, steps=True)


def decode_columns(columns: Mapping[str, ArrayLike], path: str, unit: float) -> Events:
    """Events of ``columns`` t, x, y, p, where p is 0 and 1, or -1 and 1, and t is in ``unit`` microseconds.

    Raises EventFileError that names ``path`` and event.
    """
    held = {key: np.asarray(columns[key], np.float64) for key in COLUMNS}
    sizes = {key: values.shape for key, values in held.items()}
    if len(set(sizes.values())) > 1 or held["t"].ndim != 1:
        raise EventFileError(
            f"{path}: t, x, y and p have shapes {', '.join(map(str, sizes.values()))}; they must be equal lists"
        )
    _require_count(len(held["t"]), path)
    most = {"t": LATEST / unit, "x": MOST_PIXELS - 1, "y": MOST_PIXELS - 1, "p": MOST_CHANNELS - 1}
    for key, values in held.items():
        wrong = ~np.isfinite(values) if key == "t" else values != np.floor(values)
        wrong |= (values < (-1 if key == "p" else 0)) | (values > most[key])
        if wrong.any():
            first = int(wrong.argmax())
            whole = "" if key == "t" else "a whole number of "
            allowed = f"at most {int(most[key])}" if values[first] > most[key] else f"{whole}0 or more"
            raise EventFileError(f"{path}: event {first}: {key} is {values[first]:g}; it must be {allowed}")
    t = np.rint(held["t"] * unit).astype(np.int64)
    x, y, p = (held[key].astype(np.int64) for key in "xyp")
    return Events(x, y, np.maximum(p, 0), t)


def _require_count(count: int, path: str) -> None:
    """Raise EventFileError that names ``path`` for more events than a recording may have, before they take memory."""
    if count > MOST_EVENTS:
        raise EventFileError(f"{path}: holds {count:,} events; a recording has at most {MOST_EVENTS:,}")


def _table(text: str) -> dict[str, array[float]]:
    """The columns of a CSV, by its header, or t, x, y, p where it has none. Raises ValueError."""
    rows = (row for row in csv.reader(io.StringIO(text)) if row)
    first = next(rows, [])
    header = [cell.strip().lower() for cell in first]
    named = any(cell in COLUMNS for cell in header)
    if named and (missing := [key for key in COLUMNS if key not in header]):
        raise ValueError(f"no column {missing[0]}; it has {', '.join(header)}")
    place = {key: header.index(key) if named else i for i, key in enumerate(COLUMNS)}
    columns = {key: array("d") for key in COLUMNS}
    for count, row in enumerate(rows if named else chain([first] if first else [], rows)):
        if count == MOST_EVENTS:
            raise ValueError(f"holds more than {MOST_EVENTS:,} events")
        for key, i in place.items():
            columns[key].append(float(row[i]) if i < len(row) else np.nan)
    return columns


def check_events(events: Events, path: str, shape: tuple[int, int, int]) -> None:
    """Raise EventFileError that names ``path`` for ``events`` that cannot be a recording.

    Those are no events, and, at the first of them, events outside the sensor of this ``shape`` [channels, rows, columns].
    """
    if len(events) == 0:
        raise EventFileError(f"{path}: holds no events")
    for what, values, most in zip(
        ("channel", "row", "column"), (events.p, events.y, events.x), shape, strict=True
    ):
        outside = (values < 0) | (values >= most)
        if outside.any():
            first = int(outside.argmax())
            place = f"column {events.x[first]}, row {events.y[first]}, channel {events.p[first]}"
            raise EventFileError(
                f"{path}: event {first} lies at {place}; this sensor has {what}s from 0 to {most - 1}"
            )
