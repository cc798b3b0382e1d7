"""Arrays in files: safe readers of NumPy's .npy and .npz, without code execution and within size limits.

A header may declare any size, and an archive may unpack to any size. Both are compared with the actual number of bytes, or with a limit,
before memory is allocated. Errors are ValueError with our own messages, because NumPy's advice does not suit the user of a data file.
"""

from __future__ import annotations

import errno
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

LARGEST = 1 << 30
"""Maximum bytes of a recording, or of its unpacked arrays."""
NUMBERS, TEXTS = "biuf", "US"
"""NumPy's dtype kinds of real numbers, and of text."""


@dataclass(frozen=True)
class Header:
    """Header of a .npy; the content may contradict it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the first axis varies fastest."""
    start: int
    """Byte offset of the first value."""

    @property
    def bytes(self) -> int:
        """Number of bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], kinds: str = NUMBERS, fields: Sequence[str] = ()) -> Header:
    """Read the header of a .npy from the start of ``file``, and leave ``file`` at the first value.

    Args:
        kinds: Allowed dtype kinds, also of fields.
        fields: Names of the fields whose kinds are checked; the others may have any kind except Python objects. If the array has none of
            these, all its fields are checked.

    Raises:
        ValueError: If there is no valid header.
        OSError: If the file cannot be read.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # NumPy raises any exception for a foreign header
        if failure := _find_disk_error(error):
            raise failure from None
        raise ValueError("it does not begin with the header of a .npy") from None
    _require_kinds(dtype, kinds, fields)
    if min(shape, default=0) < 0:
        raise ValueError(f"has the shape {list(shape)}")
    return Header(shape, dtype, fortran, file.tell())


def _require_kinds(dtype: np.dtype, kinds: str, fields: Sequence[str]) -> None:
    """Raise ValueError if values of ``dtype`` are not of the allowed ``kinds``; see `read_header`."""
    if dtype.hasobject:
        raise ValueError("holds Python objects; it must hold numbers")
    names = dtype.names or ()
    checked = [dtype[name].base for name in [name for name in names if name in fields] or names] or [dtype]
    for field in checked:
        if field.kind not in kinds or not field.itemsize:
            allowed = "numbers" if kinds == NUMBERS else "numbers or text"
            raise ValueError(f"holds {field}; it must hold {allowed}")


def read_array(data: bytes, kinds: str = NUMBERS, fields: Sequence[str] = ()) -> np.ndarray:
    """Return the array in the content of a .npy, without a copy. See `read_header` for ``kinds`` and ``fields``.

    Raises ValueError if the content is not a valid array.
    """
    header = read_header(io.BytesIO(data), kinds, fields)
    if header.bytes > len(data) - header.start:
        raise ValueError(
            f"{list(header.shape)} of {header.dtype} need {header.bytes:,} bytes; the file is shorter"
        )
    count = math.prod(header.shape)
    flat = np.frombuffer(data, header.dtype, count, header.start) if count else np.zeros(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def read_arrays(
    file: IO[bytes], keys: Sequence[str] = (), kinds: str = NUMBERS, most: int = LARGEST
) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz by name: the ``keys``, which must exist, or all if ``keys`` is empty.

    ``kinds`` are the allowed dtype kinds, ``most`` the maximum bytes of all unpacked arrays together.

    Raises:
        ValueError: If an array is missing, too large or invalid.
        OSError: If the file cannot be read.
    """
    archive, members = _open_archive(file)
    if missing := [key for key in keys if key not in members]:
        raise ValueError(f"no array {missing[0]}; it has {', '.join(members) or 'none'}")
    chosen = {key: members[key] for key in keys or members}
    if (size := sum(info.file_size for info in chosen.values())) > most:
        raise ValueError(f"unpacks to {size:,} bytes; allowed: {most:,}")
    return {key: _unpack(archive, info, key, kinds) for key, info in chosen.items()}


def list_arrays(file: IO[bytes]) -> list[str]:
    """Return the names of the arrays in a .npz. Raises ValueError if it is damaged, OSError if it cannot be read."""
    return list(_open_archive(file)[1])


def _find_disk_error(error: Exception) -> OSError | None:
    """Return the disk error behind ``error``; None if the file itself is damaged."""
    for each in (error, error.__context__):  # zipfile reports an unreadable file as "not a zip file"
        # unpackers raise OSError without a number; EINVAL is a seek to before the start of the file
        if isinstance(each, OSError) and each.errno not in (None, errno.EINVAL):
            return each
    return None


def _open_archive(file: IO[bytes]) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Return a .npz and its members by array name. Raises ValueError if it is damaged, OSError if it cannot be read."""
    try:
        archive = zipfile.ZipFile(file)  # pylint: disable=consider-using-with  # the caller closes the file
        return archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except Exception as error:  # pylint: disable=broad-exception-caught  # as above
        if failure := _find_disk_error(error):
            raise failure from None
        raise ValueError("not a readable archive of arrays") from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, kinds: str) -> np.ndarray:
    """Unpack an array of an archive.

    Raises:
        ValueError: If the array is invalid or larger than declared; the message names its ``key``.
        OSError: If the archive cannot be read.
    """
    try:
        with archive.open(info) as member:
            data = member.read(info.file_size)
            if member.read(1):
                raise ValueError("has more bytes than it declares")
    except Exception as error:  # pylint: disable=broad-exception-caught  # as above
        if failure := _find_disk_error(error):
            raise failure from None
        raise ValueError(f"{key}: cannot be unpacked: {' '.join(str(error).split())}") from None
    try:
        return read_array(data, kinds)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
