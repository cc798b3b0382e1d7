"""The cache: where in its frames each event of a recording falls, four bytes an event, mapped from disk.

A recording is read once. What is kept does not depend on the number of pixels or frames, but on that of the events, so that 300 frames of
60,000 recordings of N-MNIST take as much as 10 do: 1 GB, where the frames themselves would be 97 GB. All of it lies in ``frames`` below
the cache folder, at most SPIKY_RL_CACHE_GB gigabytes (20, unless said otherwise): what was not used for longest makes room.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiky_rl.config import files
from spiky_rl.config.progress import ProgressFactory, no_progress
from spiky_rl.config.registry import UserError
from spiky_rl.config.safe_loading import open_regular
from spiky_rl.datasets._arrays import NUMBERS, TEXTS, read_arrays
from spiky_rl.datasets._events import DAMAGE, EventFileError, Events, check_events
from spiky_rl.datasets.base import Dataset, Recording

log = logging.getLogger(__name__)

VERSION = 4
"""Version of what is kept on disk: another one makes it anew."""
LIMIT_GB = 20.0
PLACE = np.dtype(np.uint32)
MEASURED = 16
"""Recordings that the size of all is estimated from."""
KEYS = ("offsets", "digests", "index", "ends", "skipped")
"""Arrays beside the places; with them stands a digest of the bytes of all."""


@dataclass(frozen=True)
class CachedRecordings:
    """Recordings as the cache holds them: events, their hashes, and what was left out."""

    places: np.ndarray
    """[events], of all recordings: index into the flat frames [T, channels, rows, columns] of its own."""
    offsets: np.ndarray
    """[recordings + 1], first event of each."""
    digests: np.ndarray
    """[recordings], uint64: hash of the events of each, wherever they come from."""
    index: np.ndarray
    """[recordings], which of those that were asked for."""
    ends: np.ndarray
    """[recordings], time after the last event of each, in the window or not."""
    skipped: tuple[str, ...]
    """What is wrong with each of the others."""


def index_events(events: Events, dataset: Dataset) -> np.ndarray:
    """Where the events within the window fall in the flat frames [bins, channels, rows, columns]."""
    start, end = dataset.window
    k = (events.t - start) * dataset.bins // (end - start)
    channels, rows, columns = dataset.shape
    place = ((k * channels + events.p) * rows + events.y) * columns + events.x
    return place[(k >= 0) & (k < dataset.bins)].astype(PLACE)


def load_cached(
    dataset: Dataset,
    recordings: Sequence[Recording],
    skip_bad: bool = False,
    progress: ProgressFactory = no_progress,
) -> CachedRecordings:
    """Recordings from the cache; those that it does not hold yet are read from their files.

    Args:
        dataset: Whose recordings they are.
        recordings: Some of its own.
        skip_bad: Leave out what is damaged, without events, or without any in the window, instead of refusing it.
        shown: What displays how much is read.

    Raises:
        EventFileError: A recording is bad.
        UserError: The cache has no room for it.
    """
    size = math.prod(dataset.shape) * dataset.bins
    if size > np.iinfo(PLACE).max:
        raise UserError(
            f"dataset.bins: {dataset.bins} frames of {' x '.join(map(str, dataset.shape))} are more than 2^32 values"
        )
    sees = (
        VERSION,
        dataset.get_reader_fingerprint(),
        dataset.bins,
        dataset.window,
        dataset.shape,
        sorted(dataset.get_fingerprints()),
    )
    text = repr((sees, [(r.name, r.member, r.row) for r in recordings]))
    name = f"{type(dataset).__name__.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = files.cache_folder() / "frames" / f"{name}.events"
    held = _open_cached(path)
    if held is None:
        try:
            _build(path, dataset, recordings, skip_bad, progress)
        except OSError as error:
            raise UserError(
                f"recordings cannot be kept in {str(path.parent)!r}: {error.strerror or error}; set SPIKY_RL_CACHE to another folder"
            ) from None
        held = _open_cached(path)
        if held is None:
            raise UserError(
                f"{path}: is another than was written; set SPIKY_RL_CACHE to a folder on another disk"
            )
    if held.skipped and not skip_bad:
        raise EventFileError(f"{held.skipped[0]}; --skip_bad leaves such recordings out")
    return held


def _open_cached(path: Path) -> CachedRecordings | None:
    """What lies on the disk, mapped; None where there is nothing, or something damaged. A use is noted as the files' time."""
    about = path.with_suffix(".npz")
    if not (path.is_file() and about.is_file()):
        return None
    try:
        with open_regular(about) as file:
            held = read_arrays(file, (*KEYS, "digest"), NUMBERS + TEXTS)
        size = path.stat().st_size
        if size != held["offsets"].astype(np.int64).max(initial=0) * PLACE.itemsize:
            raise ValueError(f"has {size:,} bytes")
        places = np.memmap(path, PLACE, "r") if size else np.zeros(0, PLACE)
        told = str(held.pop("digest"))
        if _digest_all(hashlib.sha256(places).hexdigest(), path, held) != told:
            raise ValueError("digest: is not that of what is kept")
    except DAMAGE as error:
        log.warning("%s: damaged (%s); it is made anew", path, " ".join(str(error).split()))
        return None
    for file_used in (path, about):
        os.utime(file_used)
    skipped = tuple(map(str, held.pop("skipped")))
    return CachedRecordings(places, **held, skipped=skipped)


def _digest_all(places: str, path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of all that is kept of recordings: that of their ``places``, the name of the file at ``path``, and the arrays beside it."""
    whole = hashlib.sha256(places.encode())
    for key in KEYS:
        array = arrays[key]
        whole.update(f"{path.stem} {key} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return whole.hexdigest()


def _build(
    path: Path, dataset: Dataset, recordings: Sequence[Recording], skip_bad: bool, shown: ProgressFactory
) -> None:
    """Read the recordings into the cache."""
    limit = limit_bytes()
    size = estimate_bytes(dataset, recordings)
    path.parent.mkdir(parents=True, exist_ok=True)
    # refused before anything makes room for it
    free = shutil.disk_usage(path.parent).free + sum(s for s, _ in _unused(path.parent, limit - size))
    if size > min(limit, free):
        have = (
            f"{path.parent} has {free / 1e9:.3g} GB left"
            if size > free
            else f"at most {limit / 1e9:.3g} GB are kept"
        )
        raise UserError(
            f"{len(recordings)} recordings of {dataset.title} take about {size / 1e9:.3g} GB, and {have}; take fewer with"
            " --recordings, or set SPIKY_RL_CACHE to another folder, or SPIKY_RL_CACHE_GB to more"
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
    places = hashlib.sha256()

    def fill(beside: Path) -> None:
        with beside.open("wb") as file, shown(f"reading {dataset.title}") as tell:
            for number, recording in enumerate(recordings):
                try:
                    events = _read_valid(dataset, recording)
                except EventFileError as error:
                    if not skip_bad:
                        raise EventFileError(f"{error}; --skip_bad leaves such recordings out") from None
                    skipped.append(str(error))
                    continue
                own = index_events(events, dataset)
                offsets.append(offsets[-1] + len(own))
                if offsets[-1] * PLACE.itemsize > limit:
                    raise UserError(
                        f"SPIKY_RL_CACHE_GB: {dataset.title} needs more than {limit / 1e9:.3g} GB; set it to more"
                    )
                digests.append(digest(events))
                index.append(number)
                ends.append(int(events.t.max()) + 1)
                file.write(own.tobytes())
                places.update(own.tobytes())
                tell((number + 1) / len(recordings), f"{number + 1} of {len(recordings)}")
        if not index:
            raise EventFileError(f"{skipped[0]}; no recording is left")

    files.write_atomically(path, fill, durable=False)
    arrays = {
        "offsets": np.array(offsets, np.int64),
        "digests": np.array(digests, np.uint64),
        "index": np.array(index, np.int64),
        "ends": np.array(ends, np.int64),
        "skipped": np.array(skipped, np.str_),
    }
    arrays["digest"] = np.array(_digest_all(places.hexdigest(), path, arrays))

    def note(beside: Path) -> None:
        with beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    files.write_atomically(path.with_suffix(".npz"), note, durable=False)


def _read_valid(dataset: Dataset, recording: Recording) -> Events:
    """A recording with events in the window, all on the sensor. Raises EventFileError."""
    events, (start, end) = dataset.read_events(recording), dataset.window
    check_events(events, dataset.path(recording), dataset.shape)
    if not ((events.t >= start) & (events.t < end)).any():
        first, last = int(events.t.min()), int(events.t.max())
        raise EventFileError(
            f"{dataset.path(recording)}: all its events lie from {first} to {last}, none in the window from {start} to {end}"
        )
    return events


def digest(events: Events) -> int:
    """Hash of a recording's events, wherever they come from."""
    text = np.stack([events.t, events.x, events.y, events.p]).astype(np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def estimate_bytes(dataset: Dataset, recordings: Sequence[Recording]) -> int:
    """Bytes that recordings take in the cache, from some of them."""
    counts = []
    for number in sorted(
        {round(i) for i in np.linspace(0, len(recordings) - 1, min(MEASURED, len(recordings)))}
    ):
        try:
            counts.append(len(dataset.read_events(recordings[number])))
        except EventFileError:  # refused or skipped where all are read
            continue
    return round(PLACE.itemsize * len(recordings) * sum(counts) / max(len(counts), 1))


def limit_bytes() -> float:
    """How much is kept at most. Raises UserError for a variable that is no number."""
    text = os.environ.get("SPIKY_RL_CACHE_GB") or str(LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0.0 < limit < math.inf:
        raise UserError(f"SPIKY_RL_CACHE_GB: {text!r} is no number of gigabytes above 0")
    return limit * 1e9


def evict(folder: Path, limit: float) -> None:
    """Delete what was not used for longest, until no more than ``limit`` bytes of recordings are left."""
    files.remove_leftovers(folder)
    for _, path in _unused(folder, limit):
        log.info("%s: removed, to make room in the cache", path)
        path.unlink(missing_ok=True)


def _unused(folder: Path, limit: float) -> list[tuple[int, Path]]:
    """Size and path of what must go so that ``limit`` bytes are left, unused for longest first.

    What is small and costs a reading of all recordings to find out anew, a sensor that they need, is none of it.
    """
    held = sorted(
        (path.stat().st_mtime, path.stat().st_size, path)
        for path in folder.iterdir()
        if path.suffix in (".events", ".npz") and path.is_file()
    )
    total, found = sum(size for _, size, _ in held), []
    for _, size, path in held:
        if total <= limit:
            break
        found.append((size, path))
        total -= size
    return found
