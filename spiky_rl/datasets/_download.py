"""Archives: fetched and checked, whole or absent; they are read as they are. A download that was interrupted goes on where it was."""

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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.registry import UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 30.0
PARTIAL = ".partial"
"""Behind the name of a file that is not whole yet."""


class DownloadError(UserError):
    """A file that could not be fetched or kept, or is not the one that was meant."""


@dataclass(frozen=True)
class DatasetArchive:
    """A .zip and its checksums."""

    name: str
    checksums: Mapping[str, str]
    """By the names that `hashlib` has for them; all have to be right."""
    url: str
    folder: str
    """What it unpacks to; empty: any number of folders."""

    def fetch(self, folder: Path, shown: ProgressFactory = no_progress) -> None:
        """Download it into ``folder``, unless it or what it unpacks to is there. Raises DownloadError, with what to do by hand.

        ``shown`` opens a display of how far it is.
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
                raise DownloadError(f"{path}: its {wrong}; delete it and get it again")
            return
        partial = folder / f"{self.name}{PARTIAL}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file, shown(self.name) as tell:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    self._download(file, tell)
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
                f"cannot write {str(partial)!r}: {error.strerror or error}; when that is mended, run the same command again"
            ) from None

    def _find_checksum_error(self, path: Path) -> str:
        """How a file's checksums differ from what they have to be; nothing where they do not."""
        for algorithm, wanted in self.checksums.items():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, algorithm).hexdigest()
            if digest != wanted:
                return f"{algorithm} is {digest}, not {wanted}"
        return ""

    def _download(self, file: IO[bytes], tell: Callable[[float, str], None]) -> None:
        """Bring the file to its end, from where it is if the server can. An OSError is one of the file, not of the net."""
        done = file.tell()
        try:
            with _open(self.url, done) as answer:
                if (
                    answer.status != http.HTTPStatus.PARTIAL_CONTENT
                ):  # from the beginning, whatever was asked for
                    done = 0
                    file.truncate(0)
                size = done + int(answer.headers.get("Content-Length") or 0)
                for chunk in _chunks(answer):
                    file.write(chunk)
                    done += len(chunk)
                    of = f" of {size // 10**6}" if size > done else ""
                    tell(done / size if size else 0.0, f"{done // 10**6}{of} MB")
            file.flush()
            if done < size:
                raise _NetError(f"the connection ended after {done} of {size} bytes")
        except _NetError as error:
            sums = ", ".join(f"{algorithm} {value}" for algorithm, value in self.checksums.items())
            again = f" run the same command again to go on after {done // 10**6} MB, or" if done else ""
            raise DownloadError(
                f"cannot download {self.url}: {' '.join(str(error).split())};{again} get it on a machine that can, and put it"
                f" into {str(Path(file.name).parent)!r} as {self.name!r} ({sums})"
            ) from None


class _NetError(Exception):
    """A server that does not give the file, or a connection that broke."""


@contextmanager
def _open(url: str, start: int) -> Iterator[Any]:
    """The server's answer, from byte ``start`` on if it can; empty where nothing stands behind that. Raises _NetError."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _NetError(f"{error.code} {error.reason}") from None
        answer = urllib.response.addinfourl(
            io.BytesIO(), http.client.HTTPMessage(), url, http.HTTPStatus.PARTIAL_CONTENT
        )
    except (OSError, http.client.HTTPException) as error:
        raise _NetError(getattr(error, "reason", error) or type(error).__name__) from None
    with answer:
        yield answer


def _chunks(answer: io.BufferedIOBase) -> Iterator[bytes]:
    """The answer, piece by piece. Raises _NetError."""
    while True:
        try:
            chunk = answer.read1(CHUNK)  # what is there, so that little is lost where the connection breaks
        except (OSError, http.client.HTTPException) as error:
            raise _NetError(str(error) or type(error).__name__) from None
        if not chunk:
            return
        yield chunk
