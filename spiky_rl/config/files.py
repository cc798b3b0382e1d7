"""Atomic writes: a file is written to a temporary name beside its path, synchronised to disk and then renamed."""

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

from spiky_rl.config.errors import UserError
from spiky_rl.config.plain_data import PlainValue

TEMPORARY_PATTERN = re.compile(r"\..+?\.(?:([0-9a-f]{8})-)?([0-9]{1,9})-[0-9a-f]{8}\.part")
"""Name of a temporary file or folder; its groups are the writer's process namespace and process number."""
ABANDONED_AGE_S = 24 * 3600.0
"""Age at which a temporary file of another process namespace counts as abandoned: its writer cannot be looked up."""
MAX_NAME_BYTES = 100
"""Maximum length of a folder name in bytes."""
PATH_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
"""Error numbers caused by the path that the user gave, or by missing permissions."""
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
"""Error numbers of a full or failing disk or terminal."""


def format_os_error(error: OSError) -> str:
    """Format an error in one line: the file, if it is known, and the system's reason."""
    return f"{error.filename or 'cannot write'}: {error.strerror}"


def write_atomically(path: Path, write_content: Callable[[Path], object], durable: bool = True) -> None:
    """Write a temporary file beside ``path``, then rename it: a crash leaves the old file or the new one, never a part.

    Creates the folder. An OSError names ``path``.

    Args:
        write_content: Writes the file at the path that it gets.
        durable: Synchronise file and folder to disk, so that the same holds after a power failure, and remove leftovers of killed
            writers from the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_temporary_path(path)
    try:
        write_content(temporary)
        if durable:
            fsync_path(temporary)
        os.replace(temporary, path)
        if durable:
            fsync_path(path.parent)
            remove_leftovers(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _make_temporary_path(path: Path) -> Path:
    """Return a new hidden path beside ``path``, of the form of `TEMPORARY_PATTERN`."""
    # processes in two containers may share the folder and have the same process number
    writer = f"{get_process_namespace()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{writer}.part")


@contextmanager
def stage_files(folder: Path, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends, move all its files into ``folder``, or none if the block raises.

    Paths in an OSError or a UserError of the block are replaced by the final paths. If a file cannot be moved, ``folder``
    is restored.

    Args:
        folder: Final folder; it is created if it is missing, and files of the same names are overwritten.
        stale: Names of files to remove from ``folder`` unless the block wrote them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    temporary = _make_temporary_path(folder / "files")
    new, old = temporary / "new", temporary / "old"
    try:
        with _name_final_paths(new, folder):
            new.mkdir(parents=True)
            yield new
            names = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()]
            for name in names:
                fsync_path(new / name)
            _move(new, folder, names, [Path(name) for name in stale if Path(name) not in names], old)
            for parent in {(folder / name).parent for name in names}:
                fsync_path(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _name_final_paths(new: Path, folder: Path) -> Iterator[None]:
    """Replace the path ``new`` by ``folder`` in an OSError or a UserError of the block."""
    try:
        yield
    except UserError as error:
        error.args = tuple(str(text).replace(str(new), str(folder)) for text in error.args)
        raise
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = error.filename.replace(str(new), str(folder))
        raise


def _move(new: Path, folder: Path, names: Sequence[Path], stale: Sequence[Path], old: Path) -> None:
    """Move files from ``new`` into ``folder`` and remove ``stale`` ones; restore ``folder`` from copies in ``old`` on failure."""
    done: list[Path] = []
    try:
        for name in (*names, *stale):
            target = folder / name
            if target.exists():
                (old / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(target, old / name)
            done.append(name)
            if name in names:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new / name, target)
            else:
                target.unlink(missing_ok=True)
    except (OSError, KeyboardInterrupt):
        for name in done:
            if (old / name).exists():
                os.replace(old / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a text file with `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), durable)


def write_json(path: Path, data: PlainValue, durable: bool = True) -> None:
    """Write ``data`` as indented JSON with `write_atomically`."""
    write_text(path, json.dumps(data, indent=2) + "\n", durable)


def fsync_path(path: Path) -> None:
    """Synchronise a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot synchronise a folder
            raise
    finally:
        os.close(descriptor)


@functools.cache
def get_process_namespace() -> str:
    """Return a digest of the scope in which process numbers are unique: host, boot and PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, namespace = "", 0
    return hashlib.sha256(f"{os.uname().nodename} {boot} {namespace}".encode()).hexdigest()[:8]


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of ended writers from ``folder``; keep files of writers that may still run."""
    for path in folder.glob(".*.part"):
        match = TEMPORARY_PATTERN.fullmatch(path.name)
        try:
            if match and is_abandoned(path, match[1], int(match[2])):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError:  # owned by another user, or already removed
            continue


def is_abandoned(path: Path, namespace: str | None, process: int) -> bool:
    """Return whether the writer of a temporary file has ended; in another namespace, judge by the age of the file.

    ``namespace`` and ``process`` are the writer's; ``namespace`` is None if the file name does not hold it.
    """
    if namespace != get_process_namespace():
        return time.time() - path.stat().st_mtime > ABANDONED_AGE_S
    try:
        os.kill(process, 0)
    except OSError as error:  # another user's process may not be signalled, but it runs
        return isinstance(error, ProcessLookupError)
    return False


def require_plain_name(flag: str, name: str) -> None:
    """Raise UserError if ``name``, given by ``flag``, is not a plain folder name."""
    if re.fullmatch(r"\w[\w.+=-]*", name) is None or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(
            f"{flag} {name!r}: must be a plain folder name: letters, digits and . _ - + =, the first a letter, digit or _,"
            f" at most {MAX_NAME_BYTES} bytes"
        )


def require_writable(flag: str, folder: Path) -> None:
    """Raise UserError if ``folder``, given by ``flag``, can neither be written to nor created. Does not create it."""
    probe = folder.absolute()
    while not os.path.lexists(probe):
        probe = probe.parent
    if not os.path.isdir(probe):
        raise UserError(f"{flag}: cannot write to {str(folder)!r}: {str(probe)!r} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=probe):  # permission bits mean nothing for root and some file systems
            pass
        with suppress(FileNotFoundError):
            folder.lstat()  # raises if the name is too long
    except OSError as error:
        raise UserError(f"{flag}: cannot write to {str(folder)!r}: {error.strerror}") from None


def require_own_folder(path: Path) -> None:
    """Raise UserError if ``path``, a folder to write, exists as a symbolic link or as another file."""
    if path.is_symlink() or (os.path.lexists(path) and not path.is_dir()):
        kind = "a symbolic link" if path.is_symlink() else "not a folder"
        raise UserError(f"{path}: is {kind}; a folder will be written there, so move it away")


def require_file(flag: str, path: Path, endings: Sequence[str] = ()) -> None:
    """Raise UserError if the file ``path``, given by ``flag``, cannot be written. For use before long work.

    Its suffix must be one of ``endings``, such as ``.json``; any if ``endings`` is empty.
    """
    if endings and path.suffix not in endings:
        raise UserError(f"{flag} {str(path)!r}: suffix {path.suffix!r}; allowed: {', '.join(endings)}")
    if path.is_dir():
        raise UserError(f"{flag} {str(path)!r}: is a folder; give a file in it")
    require_writable(flag, path.absolute().parent)


class NoHomeError(UserError):
    """The user has no home folder, and no environment variable names a cache folder."""


def cache_folder() -> Path:
    """Return the cache folder: SPIKY_RL_CACHE, else ``spiky_rl`` in XDG_CACHE_HOME or ~/.cache. Raises NoHomeError.

    An empty variable counts as unset.
    """
    if own := os.environ.get("SPIKY_RL_CACHE"):
        return Path(own).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "spiky_rl"
    except RuntimeError:
        raise NoHomeError("this user has no home folder; set SPIKY_RL_CACHE to a writable folder") from None
