"""Events: what an event sensor sends, and the files that people keep them in.

A recording's file is one of four: N-MNIST's bytes (``.bin``), a tensor of counts [time, channels, rows, columns] (``.npy``), or
events as columns t, x, y, p (``.npy`` [events, 4] or with named fields, ``.npz`` with an array each, ``.csv`` with or without a header).
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spiky_rl.config.registry import UserError

SUFFIXES = (".bin", ".npy", ".npz", ".csv", ".mat")
"""Endings of files that may be recordings."""
COLUMNS = ("t", "x", "y", "p")
OVERFLOW, OVERFLOW_US, SIZE = 240, 1 << 13, 5
"""N-MNIST's bytes: the row that is no event, what it adds to all later times, and the bytes of an event."""
MOST = 1 << 15
"""Events of one pixel, channel and step that a tensor may count."""
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


def decode(data: bytes, path: str, unit: float = 1.0, shape: tuple[int, int, int] | None = None) -> Events:
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
        return of_bytes(data, path)
    try:
        if kind == "csv":
            return of_columns(_table(data.decode("utf-8-sig")), path, unit)
        held = np.load(io.BytesIO(data), allow_pickle=False)
        if kind == "npz" or held.dtype.names:
            return of_columns({key: held[key] for key in COLUMNS}, path, unit)
        if held.ndim == 2 and held.shape[1] == len(COLUMNS):
            return of_columns(dict(zip(COLUMNS, held.T, strict=True)), path, unit)
    except EventFileError:
        raise
    except DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise EventFileError(f"{path}: no recording, or a damaged one: {reason}") from None
    if shape is not None and held.ndim == 4 and held.shape[1:] != shape:
        raise EventFileError(
            f"{path}: is {list(held.shape)}; expected [time, {', '.join(map(str, shape))}] as of the others"
        )
    return of_tensor(held, path)


def of_bytes(data: bytes, path: str) -> Events:
    """The events in ``data`` in N-MNIST's format, 5 bytes each: x, y, then polarity and time. Raises EventFileError that names ``path`` and byte."""
    if len(data) % SIZE:
        whole = len(data) // SIZE * SIZE
        raise EventFileError(
            f"{path}: byte {whole}: the last event has {len(data) - whole} of {SIZE} bytes; the file is truncated"
        )
    raw = np.frombuffer(data, np.uint8).reshape(-1, SIZE)
    x, y, high, middle, low = (column.astype(np.int64) for column in raw.T)
    t = ((high & 0x7F) << 16 | middle << 8 | low) + OVERFLOW_US * np.cumsum(y == OVERFLOW)
    is_event = y != OVERFLOW
    return Events(x[is_event], y[is_event], high[is_event] >> 7, t[is_event])


def of_tensor(held: np.ndarray, path: str) -> Events:
    """The events that a tensor ``held`` [time, channels, rows, columns] counts, times in steps. Raises EventFileError that names ``path``."""
    if held.ndim != 4 or held.dtype.kind not in "biuf":
        raise EventFileError(
            f"{path}: holds {held.dtype} of shape {list(held.shape)}; expected counts [time, channels, rows, columns], or events"
            " [events, 4] as columns t, x, y, p"
        )
    place = np.argwhere(held)
    count = held[tuple(place.T)]
    wrong = (count < 0) | (count > MOST) | (count != np.floor(count))
    if wrong.any():
        raise EventFileError(
            f"{path}: holds {count[wrong][0].item()!r}; a tensor counts events: whole numbers from 0 to {MOST}"
        )
    t, p, y, x = np.repeat(place, count.astype(np.int64), 0).T
    return Events(x, y, p, t, steps=True)


def of_columns(columns: Mapping[str, ArrayLike], path: str, unit: float) -> Events:
    """Events of ``columns`` t, x, y, p, where p is 0 and 1, or -1 and 1, and t is in ``unit`` microseconds.

    Raises EventFileError that names ``path`` and event.
    """
    held = {key: np.asarray(columns[key], np.float64) for key in COLUMNS}
    sizes = {key: values.shape for key, values in held.items()}
    if len(set(sizes.values())) > 1 or held["t"].ndim != 1:
        raise EventFileError(
            f"{path}: t, x, y and p have shapes {', '.join(map(str, sizes.values()))}; they must be equal lists"
        )
    for key, values in held.items():
        wrong = ~np.isfinite(values) if key == "t" else values != np.floor(values)
        wrong |= values < (-1 if key == "p" else 0)
        if wrong.any():
            first = int(wrong.argmax())
            allowed = "0 or more" if key == "t" else "a whole number of 0 or more"
            raise EventFileError(f"{path}: event {first}: {key} is {values[first]:g}; it must be {allowed}")
    t = np.rint(held["t"] * unit).astype(np.int64)
    x, y, p = (held[key].astype(np.int64) for key in "xyp")
    return Events(x, y, np.maximum(p, 0), t)


def _table(text: str) -> dict[str, list[float]]:
    """The columns of a CSV, by its header, or t, x, y, p where it has none."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = any(cell in COLUMNS for cell in header)
    place = {key: header.index(key) if named else i for i, key in enumerate(COLUMNS)}
    return {
        key: [float(row[i]) if i < len(row) else np.nan for row in rows[named:]] for key, i in place.items()
    }


def check(events: Events, path: str, shape: tuple[int, int, int]) -> None:
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
