"""Stores: a folder of recordings, or a .zip that is read as one and need not be unpacked."""

from __future__ import annotations

import logging
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from spiky_rl.config import registry
from spiky_rl.config.safe_loading import open_regular
from spiky_rl.datasets._arrays import LARGEST, read_header
from spiky_rl.datasets._events import SUFFIXES, EventFileError, MissingData

log = logging.getLogger(__name__)

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
"""Endings of archives."""
NAMED = 3
"""Archives that a message names."""


def make_read_error(path: str | Path, error: Exception) -> EventFileError:
    """Return the error that the file ``path`` cannot be read, with the reason that ``error`` has."""
    return EventFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


class RecordingStore:
    """Files below a folder or in an archive, by their names from there, with / between folders.

    Only regular files are read that lie in the folder itself: no pipe and no device, and nothing that a link or a name leads to elsewhere.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        """``prefix``: stands before every name, such as the folder's own. Raises EventFileError for a damaged archive."""
        self.root, self.prefix = root, prefix
        self.archive: zipfile.ZipFile | None = None
        if root.is_file():
            try:
                # pylint: disable-next=consider-using-with  # it is open for as long as the store is there
                self.archive = zipfile.ZipFile(root)
            except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
                reason = getattr(error, "strerror", None) or error
                raise EventFileError(f"{root}: no archive, or a damaged one: {reason}") from None

    @cached_property
    def _inside(self) -> Path:
        """The folder itself, wherever a link to it lies."""
        return self.root.resolve()

    @cached_property
    def _walked(self) -> tuple[list[str], list[str]]:
        """Names of all files of the folder, and those of links to folders elsewhere. Raises MissingData."""
        names, outward = _walk(self.root)
        for name in outward:
            log.warning("%s: is a link that leads out of %s; it is not followed", self.root / name, self.root)
        return names, outward

    @property
    def outward(self) -> list[str]:
        """Where links lie that lead to folders elsewhere, which are not followed."""
        return [str(self.root / name) for name in self._walked[1]] if self.archive is None else []

    def names(self) -> list[str]:
        """All files, sorted; hidden ones are left out, and what archives of macOS add. A folder with a recording's ending counts, and cannot be read."""
        held = (
            self._walked[0]
            if self.archive is None
            else (i.filename for i in self.archive.infolist() if not i.is_dir())
        )
        return sorted(
            self.prefix + n
            for n in held
            if not any(p[0] == "." or p == "__MACOSX" for p in n.split("/") if p)
        )

    def path(self, name: str) -> str:
        """Where the file ``name`` lies, for messages."""
        return str(self.root / name.removeprefix(self.prefix))

    def get_fingerprint(self, name: str) -> str:
        """A text that changes when the file ``name`` does: size and time of a file, size and checksum in an archive.

        One that is not there has one too: what is wrong with it is said where it is read.
        """
        try:
            if self.archive is not None:
                info = self.archive.getinfo(name.removeprefix(self.prefix))
                return f"{info.file_size} {info.CRC:x}"
            status = os.stat(self.path(name))
        except (OSError, KeyError):
            return "not there"
        return f"{status.st_size} {status.st_mtime_ns}"

    def open(self, name: str) -> IO[bytes]:
        """The file ``name``, to be read from any place. Raises EventFileError."""
        path = Path(self.path(name))
        try:
            if self.archive is not None:
                return self.archive.open(name.removeprefix(self.prefix))
            if path.exists() and not path.resolve().is_relative_to(self._inside):
                raise EventFileError(
                    f"{path}: leads out of {self.root}, and is not read; put the file itself there"
                )
            return open_regular(path)
        except KeyError:
            raise EventFileError(f"{path}: is not in the archive") from None
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise make_read_error(path, error) from None

    def size(self, name: str) -> int:
        """Bytes of the file ``name``, in an archive unpacked, as it says. Raises EventFileError."""
        with self.open(name) as file:
            if self.archive is None:
                return os.fstat(file.fileno()).st_size
            return self.archive.getinfo(name.removeprefix(self.prefix)).file_size

    def read(self, name: str) -> bytes:
        """The bytes of the file ``name``. Raises EventFileError where it cannot be read, is empty, or has more than `LARGEST`."""
        size = self.size(name) if self.archive is not None else 0
        try:
            with self.open(name) as file:
                data = b"" if size > LARGEST else file.read(LARGEST + 1)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise make_read_error(self.path(name), error) from None
        if max(size, len(data)) > LARGEST:
            size = size or self.size(name)
            raise EventFileError(
                f"{self.path(name)}: has {size:,} bytes; a recording has at most {LARGEST:,}"
            )
        if not data:
            raise EventFileError(f"{self.path(name)}: is empty")
        return data


class TensorFile:
    """One .npy of many recordings, [recordings, ...], read row by row, in an archive too."""

    def __init__(self, store: RecordingStore, name: str) -> None:
        self.path, self.file = store.path(name), store.open(name)
        try:
            header = read_header(self.file)
        except OSError as error:
            raise make_read_error(self.path, error) from None
        except ValueError as error:
            raise EventFileError(f"{self.path}: no .npy, or a damaged one: {error}") from None
        self.shape, self.kind, self.start = header.shape, header.dtype, header.start
        if header.fortran or len(self.shape) < 2:
            raise EventFileError(
                f"{self.path}: expected an array [recordings, ...] with the last axis fastest"
            )
        self.bytes = math.prod(self.shape[1:]) * self.kind.itemsize
        if self.bytes > LARGEST:
            raise EventFileError(
                f"{self.path}: a row has {self.bytes:,} bytes; a recording has at most {LARGEST:,}"
            )

    def __del__(self) -> None:
        if file := getattr(self, "file", None):
            file.close()

    def __getitem__(self, row: int) -> np.ndarray:
        """A recording. Raises EventFileError where the file ends before."""
        try:
            self.file.seek(self.start + row * self.bytes)
            data = self.file.read(self.bytes)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise EventFileError(f"{self.path}: row {row}: cannot be read: {error}") from None
        if len(data) < self.bytes:
            raise EventFileError(f"{self.path}: row {row}: the file ends within it")
        return np.frombuffer(data, self.kind).reshape(self.shape[1:])


def find_stores(data: Path, names: Sequence[str]) -> Iterator[RecordingStore]:
    """Folders and archives of these ``names`` below ``data`` (``.`` is ``data`` itself), in this order, or ``data`` where it is a .zip."""
    for path in [data] if data.is_file() else [data / name for name in names]:
        if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
            yield RecordingStore(path)


def format_unpack_hint(*places: Path | RecordingStore, dataset: str = "") -> str:
    """What a message that a dataset is missing ends in where archives lie there that are not read as they are.

    Args:
        places: Folders, whose own files are looked at, an archive itself, or stores, of which all files are.
        dataset: Name of what is missing: archives whose names begin with that of another dataset are not meant.

    Returns:
        ``; there is FILE: unpack it``; empty: there is none.
    """
    found = list(dict.fromkeys(path for place in places for path in _archives(place)))
    others = (
        [_letters(name) for name in registry.list_names("datasets") if name != dataset] if dataset else []
    )
    own = _letters(dataset)
    meant = [
        str(path)
        for path in found
        if _letters(path.name).startswith(own) or not _letters(path.name).startswith(tuple(others))
    ]
    if not meant:
        return ""
    more = f" and {len(meant) - NAMED} more" if len(meant) > NAMED else ""
    verb, what = ("is", "it") if len(meant) == 1 else ("are", "them")
    return f"; there {verb} {', '.join(meant[:NAMED])}{more}: unpack {what}"


def _archives(place: Path | RecordingStore) -> list[Path]:
    """The archives in a store, in a folder itself, or the one that ``place`` is."""
    if isinstance(place, RecordingStore):
        found = [Path(place.path(name)) for name in place.names()]
    elif place.is_dir():
        found = sorted(path for path in place.iterdir() if path.name[0] != ".")
    else:
        found = [place] if place.is_file() else []
    return [path for path in found if path.name.lower().endswith(PACKED)]


def _letters(name: str) -> str:
    """Letters and digits alone, small, so that Ev-Objects is ev_objects."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Names of all files below the folder ``root``, and those of links that lead out of it. Raises MissingData."""
    seen: set[str] = set()
    found: list[str] = []
    outward: list[str] = []
    inside = root.resolve()

    def refuse(error: OSError) -> None:
        raise MissingData(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        here = Path(folder)
        links = [
            name
            for name in folders
            if (here / name).is_symlink() and not (here / name).resolve().is_relative_to(inside)
        ]
        outward += [(here / name).relative_to(root).as_posix() for name in links]
        files = [name for name in folders if name.endswith(SUFFIXES) and name not in links]
        folders[:] = [name for name in folders if name not in (*files, *links)]
        found += [(here / name).relative_to(root).as_posix() for name in (*names, *files)]
    return found, outward
