"""Stores: a folder of recordings, or a .zip that is read as one and need not be unpacked."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from spiky_rl.datasets._events import SUFFIXES, EventFileError, MissingData


class Store:
    """Files below a folder or in an archive, by their names from there, with / between folders."""

    def __init__(self, root: Path, prefix: str = "") -> None:
        """``prefix``: stands before every name, such as the folder's own. Raises EventFileError for a damaged archive."""
        self.root, self.prefix = root, prefix
        self.archive: zipfile.ZipFile | None = None
        if root.is_file():
            try:
                # pylint: disable-next=consider-using-with  # it is open for as long as the store is there
                self.archive = zipfile.ZipFile(root)
            except (OSError, zipfile.BadZipFile) as error:
                reason = getattr(error, "strerror", None) or error
                raise EventFileError(f"{root}: no archive, or a damaged one: {reason}") from None

    def names(self) -> list[str]:
        """All files, sorted; hidden ones are left out, and what archives of macOS add. A folder with a recording's ending counts, and cannot be read."""
        held = (
            _walk(self.root)
            if self.archive is None
            else (i.filename for i in self.archive.infolist() if not i.is_dir())
        )
        return sorted(
            self.prefix + n for n in held if not any(p[0] == "." or p == "__MACOSX" for p in n.split("/") if p)
        )

    def path(self, name: str) -> str:
        """Where the file ``name`` lies, for messages."""
        return str(self.root / name.removeprefix(self.prefix))

    def stamp(self, name: str) -> str:
        """A text that changes when the file ``name`` does: size and time of a file, size and checksum in an archive."""
        if self.archive is not None:
            info = self.archive.getinfo(name.removeprefix(self.prefix))
            return f"{info.file_size} {info.CRC:x}"
        try:
            status = os.stat(self.path(name))
        except OSError as error:
            raise EventFileError(f"{self.path(name)}: cannot be read: {error.strerror}") from None
        return f"{status.st_size} {status.st_mtime_ns}"

    def open(self, name: str) -> IO[bytes]:
        """The file ``name``, to be read from any place. Raises EventFileError."""
        try:
            if self.archive is not None:
                return self.archive.open(name.removeprefix(self.prefix))
            return open(self.path(name), "rb")
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise EventFileError(f"{self.path(name)}: cannot be read: {reason}") from None

    def read(self, name: str) -> bytes:
        """The bytes of the file ``name``. Raises EventFileError where it cannot be read, or is empty."""
        try:
            with self.open(name) as file:
                data = file.read()
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise EventFileError(f"{self.path(name)}: cannot be read: {reason}") from None
        if not data:
            raise EventFileError(f"{self.path(name)}: is empty")
        return data


class Tensors:
    """One .npy of many recordings, [recordings, ...], read row by row, in an archive too."""

    def __init__(self, store: Store, name: str) -> None:
        self.path, self.file = store.path(name), store.open(name)
        try:
            version = np.lib.format.read_magic(self.file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, fortran, self.kind = read(self.file)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise EventFileError(f"{self.path}: no .npy, or a damaged one: {error}") from None
        if fortran or self.kind.hasobject or len(self.shape) < 2:
            raise EventFileError(
                f"{self.path}: expected an array [recordings, ...] with the last axis fastest"
            )
        self.start = self.file.tell()
        self.bytes = int(np.prod(self.shape[1:])) * self.kind.itemsize

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


def stores(data: Path, names: Sequence[str]) -> Iterator[Store]:
    """Folders and archives of these ``names`` below ``data`` (``.`` is ``data`` itself), in this order."""
    for name in names:
        path = data / name
        if path.is_dir() or (path.suffix == ".zip" and path.is_file()):
            yield Store(path)


def _walk(root: Path) -> Iterator[str]:
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise MissingData(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        files = [name for name in folders if name.endswith(SUFFIXES)]
        folders[:] = [name for name in folders if name not in files]
        for name in (*names, *files):
            yield Path(folder, name).relative_to(root).as_posix()
