"""Arrays in files: NumPy's .npy and .npz, read without code and within limits, whatever a file says of itself.

A header may promise any size, and an archive may unpack to any: both are compared with the bytes that are there, or with a limit, before
memory is taken. Errors are ValueError in words of our own, for what NumPy advises is not for whoever has the file.
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
"""Bytes of a recording, or of the arrays that one is unpacked to."""
NUMBERS, TEXTS = "biuf", "US"
"""NumPy's kinds of real numbers, and of text."""


@dataclass(frozen=True)
class Header:
    """Description of the array in a .npy, checked against no content."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    """Whether the first axis is the fastest, as of a transposed array."""
    start: int
    """Byte of the first value."""

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], kinds: str = NUMBERS, fields: Sequence[str] = ()) -> Header:
    """The header of a .npy, from whose beginning the ``file`` is read. Raises ValueError, and OSError where it cannot be read.

    Args:
        file: Left at the first value.
        kinds: NumPy's kinds of values that are allowed, in fields too.
        fields: Names of the fields that are needed: others may be of any kind but Python's objects; empty: all fields are needed.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, fortran, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    except (
        Exception
    ) as error:  # pylint: disable=broad-exception-caught  # a foreign header trips NumPy anywhere
        if failure := _find_disk_error(error):
            raise failure from None
        raise ValueError("no header of a .npy stands at its beginning") from None
    if dtype.hasobject:
        raise ValueError("holds Python objects; it must hold numbers")
    names = dtype.names or ()
    needed = [name for name in names if name in fields] or names
    values = [dtype[name].base for name in needed] if dtype.names is not None else [dtype]
    if wrong := [field for field in values if field.kind not in kinds or not field.itemsize]:
        raise ValueError(
            f"holds {wrong[0]}; it must hold {'numbers' if kinds == NUMBERS else 'numbers or text'}"
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"has the shape {list(shape)}")
    return Header(shape, dtype, fortran, file.tell())


def read_array(data: bytes, kinds: str = NUMBERS, fields: Sequence[str] = ()) -> np.ndarray:
    """The array in a .npy's bytes, which it shares. Raises ValueError.

    Args:
        data: What the file holds.
        kinds: NumPy's kinds of values that are allowed.
        fields: Names of the fields that are needed, as `read_header` takes them.
    """
    header = read_header(io.BytesIO(data), kinds, fields)
    if header.bytes > len(data) - header.start:
        raise ValueError(
            f"{list(header.shape)} of {header.dtype} take {header.bytes:,} bytes; the file ends before"
        )
    count = math.prod(header.shape)
    flat = np.frombuffer(data, header.dtype, count, header.start) if count else np.zeros(0, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def read_arrays(
    file: IO[bytes], keys: Sequence[str] = (), kinds: str = NUMBERS, most: int = LARGEST
) -> dict[str, np.ndarray]:
    """Arrays of a .npz by their names. Raises ValueError, and OSError where it cannot be read.

    Args:
        file: What holds them.
        keys: Names that have to be there, and alone are read; empty: all that there are.
        kinds: NumPy's kinds of values that are allowed.
        most: Bytes that they are unpacked to at most, together.
    """
    archive, members = _archive(file)
    if missing := [key for key in keys if key not in members]:
        raise ValueError(f"no array {missing[0]}; it has {', '.join(members) or 'none'}")
    chosen = {key: members[key] for key in keys or members}
    if (size := sum(info.file_size for info in chosen.values())) > most:
        raise ValueError(f"unpacks to {size:,} bytes; at most {most:,}")
    return {key: _unpack(archive, info, key, kinds) for key, info in chosen.items()}


def list_arrays(file: IO[bytes]) -> list[str]:
    """Names of the arrays of a .npz. Raises ValueError."""
    return list(_archive(file)[1])


def _find_disk_error(error: Exception) -> OSError | None:
    """Return the error of the disk that an ``error`` is or stands for; None if the file is damaged."""
    for each in (error, error.__context__):  # zipfile calls a file that it cannot read no archive
        # unpackers raise OSError without a number, and a place before the file's beginning is EINVAL
        if isinstance(each, OSError) and each.errno not in (None, errno.EINVAL):
            return each
    return None


def _archive(file: IO[bytes]) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A .npz with its arrays' places by name. Raises ValueError."""
    try:
        archive = zipfile.ZipFile(file)  # pylint: disable=consider-using-with  # nothing is open but the file
        return archive, {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    except Exception as error:  # pylint: disable=broad-exception-caught  # as above
        if failure := _find_disk_error(error):
            raise failure from None
        raise ValueError("no archive of arrays, or a damaged one") from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, kinds: str) -> np.ndarray:
    """Return an array of an archive, unpacked to no more bytes than it declares. Raises ValueError that names its ``key``."""
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
