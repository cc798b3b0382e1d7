"""Stores of recordings: a folder, or a .zip that is read without unpacking."""

from __future__ import annotations

import lzma
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from spiky_rl.config import registry
from spiky_rl.config.safe_loading import open_regular
from spiky_rl.datasets._arrays import LARGEST, read_header
from spiky_rl.datasets._events import SUFFIXES, EventFileError, MissingData

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
"""Suffixes of archives."""
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""Exceptions of reading a file on a failing disk, or in a damaged archive."""
MAX_NAMED_ARCHIVES = 3
"""Maximum number of archives that a message names."""


def make_read_error(path: str | Path, error: Exception) -> EventFileError:
    """Return the error of the unreadable file ``path``, with the reason of ``error``."""
    return EventFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


class RecordingStore:
    """Files below a folder or in an archive, by their relative names with / between folders.

    Only regular files are read: no pipes and no devices. Links are followed.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        """Open the folder or archive ``root``; every name begins with ``prefix``. Raises EventFileError for a damaged archive."""
        self.root, self.prefix = root, prefix
        self.archive: zipfile.ZipFile | None = None
        if root.is_file():
            try:
                # pylint: disable-next=consider-using-with  # it stays open as long as the store exists
                self.archive = zipfile.ZipFile(root)
            except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
                reason = getattr(error, "strerror", None) or error
                raise EventFileError(f"{root}: not an archive, or damaged: {reason}") from None

    def list_names(self) -> list[str]:
        """Return the names of all files, sorted, without hidden files and the files that macOS adds to archives.

        A folder with the suffix of a recording counts as a file, which cannot be read.
        """
        if self.archive is None:
            names = _walk(self.root)
        else:
            names = [info.filename for info in self.archive.infolist() if not info.is_dir()]
        # an archive may hold a name twice; as in an unpacked folder, it is one file, the last
        return sorted({self.prefix + name for name in names if not _is_hidden(name)})

    def match_names(self, pattern: str) -> list[tuple[re.Match[str], str]]:
        """Return the match and the name of every file whose name contains the regular expression ``pattern``, sorted by name."""
        return [(match, name) for name in self.list_names() if (match := re.search(pattern, name))]

    def path(self, name: str) -> str:
        """Return the path of the file ``name``, for messages."""
        return str(self.root / name.removeprefix(self.prefix))

    def get_fingerprint(self, name: str) -> str:
        """Return a text that changes with the file ``name``: its size and time, or in an archive its size and checksum.

        A missing file has a fingerprint too; the error is raised when it is read.
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
        """Open the file ``name``, with random access. Raises EventFileError."""
        path = Path(self.path(name))
        try:
            if self.archive is not None:
                return self.archive.open(name.removeprefix(self.prefix))
            return open_regular(path)
        except KeyError:
            raise EventFileError(f"{path}: is not in the archive") from None
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise make_read_error(path, error) from None

    def size(self, name: str) -> int:
        """Return the bytes of the file ``name``; in an archive, the declared unpacked size. Raises EventFileError."""
        with self.open(name) as file:
            if self.archive is None:
                return os.fstat(file.fileno()).st_size
            return self.archive.getinfo(name.removeprefix(self.prefix)).file_size

    def read(self, name: str) -> bytes:
        """Return the content of the file ``name``. Raises EventFileError if it is unreadable, empty, or larger than `LARGEST`."""
        size = self.size(name) if self.archive is not None else 0
        try:
            with self.open(name) as file:
                data = b"" if size > LARGEST else file.read(LARGEST + 1)
        except UNREADABLE as error:
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
    """A .npy of many recordings, [recordings, ...], read row by row, also from an archive."""

    def __init__(self, store: RecordingStore, name: str) -> None:
        self.path, self.file = store.path(name), store.open(name)
        try:
            header = read_header(self.file)
        except OSError as error:
            raise make_read_error(self.path, error) from None
        except ValueError as error:
            raise EventFileError(f"{self.path}: not a .npy, or damaged: {error}") from None
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
        """Return the recording in a ``row``. Raises EventFileError if it is unreadable, or the file ends before or within it."""
        try:
            self.file.seek(self.start + row * self.bytes)
            data = self.file.read(self.bytes)
        except UNREADABLE as error:
            raise EventFileError(f"{self.path}: row {row}: cannot be read: {error}") from None
        if len(data) < self.bytes:
            raise EventFileError(f"{self.path}: row {row}: the file ends within it")
        return np.frombuffer(data, self.kind).reshape(self.shape[1:])


def find_stores(data: Path, names: Sequence[str]) -> Iterator[RecordingStore]:
    """Find the folders and archives with these ``names`` below ``data``, in order; ``.`` is ``data`` itself.

    If ``data`` is a .zip, it is the only store.
    """
    paths = [data] if data.is_file() else [data / name for name in names]
    for path in paths:
        if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
            yield RecordingStore(path)


def format_unpack_hint(*sources: Path | RecordingStore, dataset: str = "") -> str:
    """Return the end of an error message for a missing dataset, about archives that must be unpacked first.

    Args:
        sources: Folders (only their own files are examined), archives, or stores.
        dataset: Name of the missing dataset; archives whose names begin with another dataset's name are ignored.

    Returns:
        ``; there is FILE: unpack it``, or an empty text if there is no such archive.
    """
    archives = dict.fromkeys(path for source in sources for path in _list_archives(source))
    matching = [str(path) for path in archives if _may_belong_to(path, dataset)]
    if not matching:
        return ""
    named = ", ".join(matching[:MAX_NAMED_ARCHIVES])
    if len(matching) == 1:
        return f"; there is {named}: unpack it"
    if len(matching) > MAX_NAMED_ARCHIVES:
        named += f" and {len(matching) - MAX_NAMED_ARCHIVES} more"
    return f"; there are {named}: unpack them"


def _may_belong_to(archive: Path, dataset: str) -> bool:
    """Return whether the name of an ``archive`` begins with the name of the ``dataset``, or with no dataset's name."""
    if not dataset:
        return True
    name = _normalize(archive.name)
    others = tuple(_normalize(other) for other in registry.list_names("datasets") if other != dataset)
    return name.startswith(_normalize(dataset)) or not name.startswith(others)


def _list_archives(source: Path | RecordingStore) -> list[Path]:
    """Return the archives in a store or directly in a folder, or ``source`` itself if it is an archive."""
    if isinstance(source, RecordingStore):
        paths = [Path(source.path(name)) for name in source.list_names()]
    elif source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.name[0] != ".")
    else:
        paths = [source] if source.is_file() else []
    return [path for path in paths if path.name.lower().endswith(PACKED)]


def _normalize(name: str) -> str:
    """Return the letters and digits of ``name`` in lower case, so that Ev-Objects and ev_objects are equal."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _is_hidden(name: str) -> bool:
    """Return whether ``name`` has a part that begins with a dot, or is in the folder that macOS adds to archives."""
    return any(part[0] == "." or part == "__MACOSX" for part in name.split("/") if part)


def _walk(root: Path) -> list[str]:
    """Return the names of all files below the folder ``root``; links are followed. Raises MissingData."""
    visited: set[str] = set()
    file_names: list[str] = []

    def refuse(error: OSError) -> None:
        raise MissingData(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a cycle of links
            folders.clear()
            continue
        visited.add(real)
        path = Path(folder).relative_to(root)
        # a folder with the suffix of a recording counts as a file, which cannot be read
        files = {name for name in folders if name.endswith(SUFFIXES)}
        file_names += [(path / name).as_posix() for name in (*names, *files)]
        folders[:] = sorted({*folders} - files)  # os.walk visits the folders that are left in the list
    return file_names
