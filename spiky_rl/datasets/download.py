"""Archives: fetched, checked, unpacked; whole or absent."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spiky_rl import files
from spiky_rl.registry import UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 30.0
Shown = Callable[[str], AbstractContextManager[Callable[[float, str], None]]]
"""Opens a display under a title; what it gives is told which share of a file is there, and that in words."""


@contextmanager
def unseen(title: str) -> Iterator[Callable[[float, str], None]]:  # pylint: disable=unused-argument
    """No display."""
    yield lambda share, words: None


class DownloadError(UserError):
    """A file that could not be fetched, or is not the one that was meant."""


@dataclass(frozen=True)
class Archive:
    """A .zip and its checksum."""

    name: str
    algorithm: str
    """Of the checksum, as `hashlib` calls it."""
    checksum: str
    url: str
    folder: str
    """What it unpacks to; empty: any number of folders."""

    def fetch(self, folder: Path, shown: Shown = unseen) -> None:
        """Download and unpack it into ``folder``, unless it is there. Raises DownloadError, with what to do by hand."""
        if self.folder and (folder / self.folder).is_dir():
            return
        if not (folder / self.name).is_file():
            with shown(self.name) as tell:
                files.write(folder / self.name, lambda place: self._download(place, tell))
        self.unpack(folder)

    def unpack(self, folder: Path) -> None:
        """Unpack ``folder``/``name`` there, all of it or nothing. Raises DownloadError where the checksum is another."""
        path = folder / self.name
        with path.open("rb") as file:
            found = hashlib.file_digest(file, self.algorithm).hexdigest()
        if found != self.checksum:
            raise DownloadError(
                f"{path}: its {self.algorithm} is {found}, not {self.checksum}; delete it and get it again"
            )
        log.info("unpacking %s", path)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-") as beside:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(beside)
            for part in sorted(Path(beside).iterdir()):
                if not (folder / part.name).exists():
                    shutil.move(part, folder / part.name)

    def _download(self, place: Path, tell: Callable[[float, str], None]) -> None:
        digest = hashlib.new(self.algorithm)
        try:
            with urllib.request.urlopen(self.url, timeout=TIMEOUT_S) as answer, place.open("wb") as file:
                _copy(answer, file, digest, int(answer.headers.get("Content-Length") or 0), tell)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise DownloadError(
                f"cannot download {self.url}: {getattr(error, 'reason', error)}; get it on a machine that can, and put it"
                f" into {str(place.parent)!r} as {self.name!r} ({self.algorithm} {self.checksum})"
            ) from None
        if digest.hexdigest() != self.checksum:
            raise DownloadError(
                f"{self.url}: its {self.algorithm} is {digest.hexdigest()}, not {self.checksum}; the file was not kept"
            )


def _copy(
    answer: IO[bytes], file: IO[bytes], digest: "hashlib._Hash", size: int, tell: Callable[[float, str], None]
) -> None:
    """Copy, hash, and tell how far it is; a server may not say the ``size``, which is then 0."""
    done = 0
    while chunk := answer.read(CHUNK):
        file.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        of = f" of {size // 10**6}" if size else ""
        tell(done / size if size else 0.0, f"{done // 10**6}{of} MB")
