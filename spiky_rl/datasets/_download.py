"""Downloads of dataset archives: resumed after an interruption, checked by checksum, and kept only if complete."""

from __future__ import annotations

import fcntl
import hashlib
import http
import http.client
import io
import logging
import os
import urllib.error
import urllib.request
import urllib.response
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.registry import UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 30.0
PARTIAL = ".partial"
"""Suffix of an incomplete file."""


class DownloadError(UserError):
    """A download failed, could not be written, or has the wrong checksum."""


@dataclass(frozen=True)
class DatasetArchive:
    """A .zip on a server, and its checksums."""

    name: str
    checksums: Mapping[str, str]
    """Checksums by their names in `hashlib`; all must match."""
    url: str
    folder: str
    """Name of the unpacked folder; empty if there is no single folder."""

    def fetch(self, folder: Path, open_progress: ProgressFactory = no_progress) -> None:
        """Download the archive into ``folder``, unless it is there, packed or unpacked.

        Raises DownloadError with instructions for a download by hand.
        """
        if self.folder and (folder / self.folder).is_dir():
            return
        path = folder / self.name
        if path.is_file():
            try:
                wrong = self._find_checksum_error(path)
            except OSError as error:
                raise DownloadError(f"cannot read {str(path)!r}: {error.strerror}") from None
            if wrong:
                raise DownloadError(f"{path}: its {wrong}; delete it and download it again")
            return
        partial = folder / f"{self.name}{PARTIAL}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file, open_progress(self.name) as report_progress:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    self._download(file, report_progress)
                finally:
                    if not file.tell():
                        partial.unlink()
                if wrong := self._find_checksum_error(partial):
                    partial.unlink()
                    raise DownloadError(f"{self.url}: its {wrong}; the file was not kept")
                os.replace(partial, path)
        except BlockingIOError:
            raise DownloadError(f"{partial}: another process is downloading it") from None
        except OSError as error:
            raise DownloadError(
                f"cannot write {str(partial)!r}: {error.strerror or error}; correct this and run the same command again"
            ) from None

    def _find_checksum_error(self, path: Path) -> str:
        """Return a description of the first wrong checksum; empty if all match."""
        for algorithm, expected in self.checksums.items():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, algorithm).hexdigest()
            if digest != expected:
                return f"{algorithm} is {digest}, not {expected}"
        return ""

    def _download(self, file: IO[bytes], report_progress: Callable[[float, str], None]) -> None:
        """Complete the file, from its present end if the server supports that.

        Raises:
            DownloadError: For a network error.
            OSError: If the file cannot be written.
        """
        done = file.tell()
        try:
            with _open(self.url, done) as answer:
                # a server that ignores the range sends the whole file
                if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                    done = 0
                    file.truncate(0)
                size = done + int(answer.headers.get("Content-Length") or 0)
                for chunk in _read_chunks(answer):
                    file.write(chunk)
                    done += len(chunk)
                    of = f" of {size // 10**6}" if size > done else ""
                    report_progress(done / size if size else 0.0, f"{done // 10**6}{of} MB")
            file.flush()
            if not done:
                raise _NetError("the server sent no data")
            if done < size:
                raise _NetError(f"the connection ended after {done} of {size} bytes")
        except _NetError as error:
            sums = ", ".join(f"{algorithm} {value}" for algorithm, value in self.checksums.items())
            again = f" run the same command again to continue after {done // 10**6} MB, or" if done else ""
            raise DownloadError(
                f"cannot download {self.url}: {' '.join(str(error).split())};{again} download it on another machine and put it"
                f" into {str(Path(file.name).parent)!r} as {self.name!r} ({sums})"
            ) from None


class _NetError(Exception):
    """The server refused the file, or the connection broke."""


def _open(url: str, start: int) -> Any:
    """Open the server's response, from byte ``start`` on if the server supports that. Raises _NetError.

    If the file ends at ``start``, the response is empty.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _NetError(f"{error.code} {error.reason}") from None
        return urllib.response.addinfourl(
            io.BytesIO(), http.client.HTTPMessage(), url, http.HTTPStatus.PARTIAL_CONTENT
        )
    except (OSError, http.client.HTTPException) as error:
        raise _NetError(getattr(error, "reason", error) or type(error).__name__) from None


def _read_chunks(answer: io.BufferedIOBase) -> Iterator[bytes]:
    """Read the response in chunks. Raises _NetError."""
    while True:
        try:
            # read1 returns available data at once, so a broken connection loses little
            chunk = answer.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _NetError(str(error) or type(error).__name__) from None
        if not chunk:
            return
        yield chunk
