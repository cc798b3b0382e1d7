"""Events: what an event sensor sends, and what every reader of a recording gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from spiky_rl.config.registry import UserError


class EventFileError(UserError):
    """A recording that is truncated or holds what its sensor cannot send."""


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
    """[events], polarity: 1 where the signal rises, 0 where it falls."""
    t: np.ndarray
    """[events], microseconds, int64."""

    def __len__(self) -> int:
        return len(self.t)


class Recordings(ABC):
    """Labelled recordings of one sensor, read when they are asked for."""

    name: str
    sensor: ClassVar[tuple[int, int]]
    """Rows and columns."""
    classes: ClassVar[int]
    window: ClassVar[tuple[int, int]]
    """First and last microsecond of what is classified, the last one excluded."""
    labels: np.ndarray
    """[recordings], int64."""
    of_test: np.ndarray
    """[recordings], bool: those of the official test set; none where there is no such set."""
    synthetic: str = ""
    """What stood in for the sensor; empty: nothing, the recordings are real."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> Events:
        """A recording. Raises EventFileError where it is damaged."""

    @abstractmethod
    def contents(self) -> Iterator[bytes]:
        """Everything that the events depend on, piece by piece: what a digest is made of."""


class Files(Recordings):
    """Recordings of which each is a file, in a folder that is named after its class."""

    suffix: ClassVar[str]

    def __init__(self, folders: Sequence[Path], test: Sequence[bool]) -> None:
        """``folders``: each holds folders 0 to 9; ``test``: which of them are the official test set."""
        found = [
            (path, int(path.parent.name), of_test)
            for folder, of_test in zip(folders, test, strict=True)
            for path in sorted(folder.glob(f"[0-9]/*{self.suffix}"))
            if "LUT" not in path.name  # ST-MNIST's folders hold a table of its taxels, too
        ]
        if not found:
            where = ", ".join(map(str, folders))
            raise MissingData(f"{where}: there is no file 0/*{self.suffix} to 9/*{self.suffix}")
        self.paths = [path for path, _, _ in found]
        self.labels = np.array([label for _, label, _ in found], np.int64)
        self.of_test = np.array([of_test for _, _, of_test in found])

    def contents(self) -> Iterator[bytes]:  # noqa: D102
        for path, label, of_test in zip(self.paths, self.labels, self.of_test, strict=True):
            yield f"{path.name} {label} {of_test}\n".encode()
            yield read_bytes(path)


def read_bytes(path: Path) -> bytes:
    """A recording's bytes. Raises EventFileError where it cannot be read, or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EventFileError(f"{path}: cannot be read: {error.strerror}") from None
    if not data:
        raise EventFileError(f"{path}: is empty")
    return data


def check_places(path: Path, events: Events, sensor: tuple[int, int], offsets: np.ndarray) -> None:
    """Raise EventFileError at the first event outside the sensor [rows, columns]; ``offsets``: each event's byte."""
    outside = (events.x >= sensor[1]) | (events.y >= sensor[0])
    if outside.any():
        first = int(outside.argmax())
        raise EventFileError(
            f"{path}: byte {offsets[first]}: an event at column {events.x[first]}, row {events.y[first]}"
            f" of a sensor of {sensor[1]} x {sensor[0]}"
        )
