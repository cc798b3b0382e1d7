"""Files that are whole or absent: written beside their place, brought to the disk, then moved into it."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from spiky_rl.config.plain_data import PlainValue
from spiky_rl.config.registry import UserError

TEMPORARY_PATTERN = re.compile(r"\..+?\.(?:([0-9a-f]{8})-)?([0-9]{1,9})-[0-9a-f]{8}\.part")
"""A file, or a folder of files, that is being written, or was when its writer was killed: where the writer runs, and its number there."""
ABANDONED_AGE_S = 24 * 3600.0
"""Seconds after which a leftover of a writer elsewhere, of which nothing can be asked, counts as abandoned."""
LONGEST_NAME = 100
NAMESPACES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of a file or folder that was named, or that is not the user's: bad input."""
DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
"""Errors of a disk or a terminal that no longer takes what is written."""


def format_os_error(error: OSError) -> str:
    """An error in one line: the file, where it is known, and the system's reason."""
    return f"{error.filename or 'cannot write'}: {error.strerror}"


def write_atomically(path: Path, write_content: Callable[[Path], object], durable: bool = True) -> None:
    """Let ``fill`` write a file beside ``path``, then move it there: a crash leaves the old file or the new, never half.

    Args:
        path: The file; its folder is made where there is none, and leftovers of killed writers are removed from it.
        fill: Writes the file that it is given.
        durable: Wait until the disk has it, so that a loss of power leaves the old file or the new as well.

    An OSError names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # processes in two containers may share a folder and a number
    beside = path.with_name(
        f".{path.name}.{get_process_namespace()}-{os.getpid()}-{secrets.token_hex(4)}.part"
    )
    try:
        write_content(beside)
        if durable:
            fsync_path(beside)
        os.replace(beside, path)
        if durable:
            fsync_path(path.parent)
            remove_leftovers(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def stage_files(folder: Path, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Give a block a folder of its own to write into; all its files go into ``folder`` where the block ends, none where it raises.

    Args:
        folder: Where the files go, over those of the same names; it is made where there is none.
        stale: Names of files that are removed from it then, unless the block wrote them.

    What the block raises, an OSError or a UserError, names files by the places that they would have had. A file that cannot be
    moved leaves all others of ``folder`` as they were, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    beside = folder / f".files.{get_process_namespace()}-{os.getpid()}-{secrets.token_hex(4)}.part"
    new, old = beside / "new", beside / "old"
    try:
        new.mkdir(parents=True)
        yield new
        names = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()]
        for name in names:
            fsync_path(new / name)
        _move(new, folder, names, [Path(name) for name in stale if Path(name) not in names], old)
        for parent in {(folder / name).parent for name in names}:
            fsync_path(parent)
    except UserError as error:
        error.args = tuple(str(text).replace(str(new), str(folder)) for text in error.args)
        raise
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = error.filename.replace(str(new), str(folder))
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move(new: Path, folder: Path, names: Sequence[Path], stale: Sequence[Path], old: Path) -> None:
    """Move files from ``new`` into ``folder`` and remove the ``stale`` ones there; ``old`` is for copies, to go back where one fails."""
    done: list[Path] = []
    try:
        for name in (*names, *stale):
            place_of = folder / name
            if place_of.exists():
                (old / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(place_of, old / name)
            done.append(name)
            if name in names:
                place_of.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new / name, place_of)
            else:
                place_of.unlink(missing_ok=True)
    except OSError:
        for name in done:
            if (old / name).exists():
                os.replace(old / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write ``text`` into the file ``path``; ``durable`` as `write` takes it."""
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"), durable)


def write_json(path: Path, data: PlainValue, durable: bool = True) -> None:
    """Write ``data`` as indented JSON into the file ``path``; ``durable`` as `write` takes it."""
    write_text(path, json.dumps(data, indent=2) + "\n", durable)


def fsync_path(path: Path) -> None:
    """Wait until the disk has the file ``path``, or the list of names where it is a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do that for a folder
            raise
    finally:
        os.close(descriptor)


@functools.cache
def get_process_namespace() -> str:
    """Where this process has its number: a digest of the machine's boot and the process-number space."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, space = "", 0
    return hashlib.sha256(f"{os.uname().nodename} {boot} {space}".encode()).hexdigest()[:8]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``; a file whose writer lives, or may live elsewhere, is left alone."""
    for path in folder.glob(".*.part"):
        match = TEMPORARY_PATTERN.fullmatch(path.name)
        try:
            if match and is_abandoned(path, match[1], int(match[2])):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError:  # another user's, or gone by now
            continue


def is_abandoned(path: Path, namespace: str | None, process: int) -> bool:
    """Whether the writer of a leftover has ended: known of a process here, concluded from its age elsewhere.

    Args:
        path: The leftover.
        where: What `place` was there; None where the file's name does not say.
        process: The writer's number there.
    """
    if namespace != get_process_namespace():
        return time.time() - path.stat().st_mtime > ABANDONED_AGE_S
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def require_plain_name(flag: str, name: str) -> None:
    """Raise UserError where ``name``, which ``what`` gives, is no plain name of a folder."""
    if re.fullmatch(r"\w[\w.+=-]*", name) is None or len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"{flag} {name!r}: must be a plain folder name: letters, digits and . _ - + =, the first a letter, digit or _,"
            f" at most {LONGEST_NAME} bytes"
        )


def require_writable(flag: str, folder: Path) -> None:
    """Raise UserError where ``folder``, which ``what`` gives, can neither be written to nor made; it is not made."""
    probe = folder.absolute()
    while not os.path.lexists(probe):
        probe = probe.parent
    if not os.path.isdir(probe):
        raise UserError(f"{flag}: cannot write to {str(folder)!r}: {str(probe)!r} is no folder")
    try:
        with tempfile.TemporaryFile(dir=probe):  # as root, or on some file systems, permissions do not tell
            pass
        with suppress(FileNotFoundError):
            folder.lstat()  # a name may be too long
    except OSError as error:
        raise UserError(f"{flag}: cannot write to {str(folder)!r}: {error.strerror}") from None


def require_own_folder(path: Path) -> None:
    """Raise UserError where ``path``, a folder to write to, is a symbolic link, which leads elsewhere, or no folder."""
    if path.is_symlink() or (os.path.lexists(path) and not path.is_dir()):
        what = "a symbolic link" if path.is_symlink() else "no folder"
        raise UserError(f"{path}: is {what}, and a folder is to be written there; move it away")


def require_file(flag: str, path: Path, endings: Sequence[str] = ()) -> None:
    """Raise UserError where no file ``path``, which ``what`` gives, can be written: before the work, not after it.

    Its ending has to be one of ``endings``, such as ``.json``; empty: any.
    """
    if endings and path.suffix not in endings:
        raise UserError(f"{flag} {str(path)!r}: the ending {path.suffix!r} is none of {', '.join(endings)}")
    if path.is_dir():
        raise UserError(f"{flag} {str(path)!r}: is a folder; name a file in it")
    require_writable(flag, path.absolute().parent)


class NoHomeError(UserError):
    """This user has no home folder, and nothing says where a cache may lie."""


def cache_folder() -> Path:
    """SPIKY_RL_CACHE, else the user's cache folder; an empty variable is as one that is not set. Raises NoHomeError."""
    if own := os.environ.get("SPIKY_RL_CACHE"):
        return Path(own).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "spiky_rl"
    except RuntimeError:
        raise NoHomeError(
            "this user has no home folder; set SPIKY_RL_CACHE to a folder that can be written"
        ) from None
