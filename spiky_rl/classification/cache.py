"""Cache of recordings on disk, memory-mapped: 4 bytes per event, its index in the flat frames of its recording.

Each recording is read once. The size of the cache depends on the number of events only: the 60,000 recordings of N-MNIST take 1 GB, as
10 frames or as 300; 300 frames as arrays would take 97 GB. The files are in ``frames`` below the cache folder. Together they take at most
SPIKY_RL_CACHE_GB gigabytes (default 20); the least recently used ones are deleted to make room.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiky_rl.config import files
from spiky_rl.config.errors import get_error_text
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.registry import UserError
from spiky_rl.config.safe_loading import open_regular
from spiky_rl.datasets._arrays import NUMBERS, TEXTS, read_arrays
from spiky_rl.datasets._events import DAMAGE, EventFileError, Events, check_events
from spiky_rl.datasets._store import make_read_error
from spiky_rl.datasets.base import Dataset, Recording

log = logging.getLogger(__name__)

FILE_VERSION = 5
"""Version of the files; files of another version are made anew."""
LIMIT_GB = 20.0
INDEX_TYPE = np.dtype(np.uint32)
MAX_MEASURED = 16
"""Maximum number of recordings from which the total size is estimated."""
ARRAY_KEYS = ("offsets", "digests", "index", "ends", "skipped")
"""Arrays in the second file (.npz); the first file (.events) holds the ``event_indices``."""


@dataclass(frozen=True)
class CachedRecordings:
    """Recordings in the cache: events, their hashes, and the skipped recordings."""

    event_indices: np.ndarray
    """[events] of all recordings: index in the recording's flat frames [T, channels, rows, columns]."""
    offsets: np.ndarray
    """[recordings + 1]: index in ``event_indices`` of the first event of each recording, and the number of events."""
    digests: np.ndarray
    """[recordings], uint64: hash of the events, independent of their file."""
    index: np.ndarray
    """[recordings]: index among the requested recordings."""
    ends: np.ndarray
    """[recordings]: time after the last event, also if it is after the window."""
    skipped: tuple[str, ...]
    """The error message of each skipped recording."""


def index_events(events: Events, dataset: Dataset) -> np.ndarray:
    """Return the index in the flat frames [bins, channels, rows, columns] of each event in the window."""
    start, end = dataset.window
    # first the window: for the times of all events the product below may exceed 64 bits
    inside = (events.t >= start) & (events.t < end)
    # a dataset may give times of 8 or 32 bits, whose product with the bins overflows
    x, y, p, t = (values[inside].astype(np.int64) for values in (events.x, events.y, events.p, events.t))
    k = (t - start) * dataset.bins // (end - start)
    channels, rows, columns = dataset.shape
    return (((k * channels + p) * rows + y) * columns + x).astype(INDEX_TYPE)


def load_cached(
    dataset: Dataset,
    recordings: Sequence[Recording],
    skip_bad: bool = False,
    open_progress: ProgressFactory = no_progress,
) -> CachedRecordings:
    """Return recordings from the cache; if they are not there, write them to the cache first.

    Recordings that are damaged or have no events in the window raise EventFileError, or are skipped if ``skip_bad``. Raises UserError
    if the cache has no room for the recordings.
    """
    size = math.prod(dataset.shape) * dataset.bins
    if size > np.iinfo(INDEX_TYPE).max:
        raise UserError(
            f"dataset.bins: {dataset.bins} frames of {' x '.join(map(str, dataset.shape))} are more than 2^32 values"
        )
    identity = (
        FILE_VERSION,
        dataset.get_reader_fingerprint(),
        dataset.bins,
        dataset.window,
        dataset.shape,
        sorted(dataset.get_fingerprints()),
    )
    text = repr((identity, [(r.name, r.member, r.row) for r in recordings]))
    name = f"{type(dataset).__name__.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = files.cache_folder() / "frames" / f"{name}.events"
    cached = _open_cached(path)
    if cached is None:
        try:
            _build(path, dataset, recordings, skip_bad, open_progress)
        except OSError as error:
            raise UserError(
                f"cannot write recordings to {str(path.parent)!r}: {error.strerror or error}; set SPIKY_RL_CACHE to a writable folder"
            ) from None
        cached = _open_cached(path)
        if cached is None:
            raise UserError(
                f"{path}: read back differently than written; set SPIKY_RL_CACHE to a folder on another disk"
            )
    if cached.skipped and not skip_bad:
        raise EventFileError(f"{cached.skipped[0]}; --skip_bad skips such recordings")
    return cached


def _open_cached(path: Path) -> CachedRecordings | None:
    """Map the cached file at ``path`` and mark it as used now, if possible; None if it is missing or damaged."""
    arrays_path = path.with_suffix(".npz")
    if not (path.is_file() and arrays_path.is_file()):
        return None
    try:
        with open_regular(arrays_path) as file:
            arrays = read_arrays(file, ARRAY_KEYS, NUMBERS + TEXTS)
        size = path.stat().st_size
        if size != arrays["offsets"][-1] * INDEX_TYPE.itemsize:
            raise ValueError(f"has {size:,} bytes")
        event_indices = np.memmap(path, INDEX_TYPE, "r")
    except DAMAGE as error:
        log.warning("%s: damaged (%s); it is made anew", path, get_error_text(error))
        return None
    with suppress(OSError):  # the cache may be another user's, or on a read-only file system
        for used in (path, arrays_path):
            os.utime(used)
    skipped = tuple(map(str, arrays.pop("skipped")))
    return CachedRecordings(event_indices, **arrays, skipped=skipped)


def _build(
    path: Path,
    dataset: Dataset,
    recordings: Sequence[Recording],
    skip_bad: bool,
    open_progress: ProgressFactory,
) -> None:
    """Read the recordings and write them to the cache."""
    limit = get_limit_bytes()
    size = estimate_bytes(dataset, recordings)
    path.parent.mkdir(parents=True, exist_ok=True)
    # check the size before anything is deleted to make room
    evictable = sum(file_size for file_size, _ in _list_evictable(path.parent, limit - size))
    free = shutil.disk_usage(path.parent).free + evictable
    if size > min(limit, free):
        if size > free:
            available = f"{path.parent} has {free / 1e9:.3g} GB left"
        else:
            available = f"the cache may take {limit / 1e9:.3g} GB"
        raise UserError(
            f"{len(recordings)} recordings of {dataset.title} need about {size / 1e9:.3g} GB, but {available}; use fewer with"
            " --recordings, or set SPIKY_RL_CACHE to another folder, or raise SPIKY_RL_CACHE_GB"
        )
    evict(path.parent, limit - size)
    log.info(
        "reading %d recordings of %s, about %.3g MB, into %s",
        len(recordings),
        dataset.title,
        size / 1e6,
        path,
    )
    offsets, digests, index, ends, skipped = [0], [], [], [], []

    def write_events(temporary: Path) -> None:
        with temporary.open("wb") as file, open_progress(f"reading {dataset.title}") as report_progress:
            for number, recording in enumerate(recordings):
                try:
                    events = _read_valid(dataset, recording)
                except EventFileError as error:
                    if not skip_bad:
                        raise EventFileError(f"{error}; --skip_bad skips such recordings") from None
                    skipped.append(str(error))
                    continue
                event_indices = index_events(events, dataset)
                offsets.append(offsets[-1] + len(event_indices))
                if offsets[-1] * INDEX_TYPE.itemsize > limit:
                    raise UserError(
                        f"SPIKY_RL_CACHE_GB: {dataset.title} needs more than {limit / 1e9:.3g} GB; raise it"
                    )
                digests.append(hash_events(events))
                index.append(number)
                ends.append(int(events.t.max()) + 1)
                file.write(event_indices.tobytes())
                report_progress((number + 1) / len(recordings), f"{number + 1} of {len(recordings)}")
        if not index:
            raise EventFileError(f"{skipped[0]}; no recording is left")

    files.write_atomically(path, write_events, durable=False)
    arrays = {
        "offsets": np.array(offsets, np.int64),
        "digests": np.array(digests, np.uint64),
        "index": np.array(index, np.int64),
        "ends": np.array(ends, np.int64),
        "skipped": np.array(skipped, np.str_),
    }

    def write_arrays(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    files.write_atomically(path.with_suffix(".npz"), write_arrays, durable=False)


def _read_valid(dataset: Dataset, recording: Recording) -> Events:
    """Return the events of a recording.

    Raises EventFileError if it has a fault, cannot be read, or has an event outside the sensor or none in the window.
    """
    if recording.fault:
        raise EventFileError(f"{dataset.path(recording)}: {recording.fault}")
    try:
        events, (start, end) = dataset.read_events(recording), dataset.window
    except OSError as error:
        raise make_read_error(dataset.path(recording), error) from None
    check_events(events, dataset.path(recording), dataset.shape)
    if not ((events.t >= start) & (events.t < end)).any():
        first, last = int(events.t.min()), int(events.t.max())
        raise EventFileError(
            f"{dataset.path(recording)}: all events are from {first} to {last}, none in the window from {start} to {end}"
        )
    return events


def hash_events(events: Events) -> int:
    """Return a hash of a recording's events, independent of their file."""
    content = np.stack([events.t, events.x, events.y, events.p]).astype(np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def estimate_bytes(dataset: Dataset, recordings: Sequence[Recording]) -> int:
    """Return the bytes that recordings take in the cache, estimated from some of them."""
    evenly_spaced = np.linspace(0, len(recordings) - 1, min(MAX_MEASURED, len(recordings)))
    counts = []
    for number in sorted({round(i) for i in evenly_spaced}):
        try:
            counts.append(len(_read_valid(dataset, recordings[number])))
        except EventFileError:  # it is refused or skipped later, when all are read
            continue
    return round(INDEX_TYPE.itemsize * len(recordings) * sum(counts) / max(len(counts), 1))


def get_limit_bytes() -> float:
    """Return the maximum size of the cache. Raises UserError if the variable is not a positive number."""
    text = os.environ.get("SPIKY_RL_CACHE_GB") or str(LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0.0 < limit < math.inf:
        raise UserError(f"SPIKY_RL_CACHE_GB: {text!r} given; allowed: a number of gigabytes above 0")
    return limit * 1e9


def evict(folder: Path, limit: float) -> None:
    """Delete the least recently used files until at most ``limit`` bytes of recordings are left."""
    files.remove_leftovers(folder)
    for _, path in _list_evictable(folder, limit):
        log.info("%s: removed, to make room in the cache", path)
        path.unlink(missing_ok=True)


def _list_evictable(folder: Path, limit: float) -> list[tuple[int, Path]]:
    """Return size and path of the files to delete so that ``limit`` bytes are left, least recently used first.

    Files with measured sensors and windows (.json) stay: they are small, and a new measurement would read all recordings.
    """
    candidates = sorted(
        (path.stat().st_mtime, path.stat().st_size, path)
        for path in folder.iterdir()
        if path.suffix in (".events", ".npz") and path.is_file()
    )
    total, evictable = sum(size for _, size, _ in candidates), []
    for _, size, path in candidates:
        if total <= limit:
            break
        evictable.append((size, path))
        total -= size
    return evictable
