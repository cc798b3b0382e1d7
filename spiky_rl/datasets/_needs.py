"""Needs of recordings: the least sensor and window that hold all of them, found out once and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from spiky_rl.config import files
from spiky_rl.config.options import RegistryError, Settings
from spiky_rl.config.safe_loading import ReadingError, read_json_record
from spiky_rl.datasets._arrays import read_header
from spiky_rl.datasets._events import COLUMNS, LATEST, MOST_CHANNELS, MOST_PIXELS, EventFileError, Events
from spiky_rl.datasets._store import make_read_error
from spiky_rl.datasets.base import TIMES, Recording

log = logging.getLogger(__name__)

SOME = 10
"""Recordings among which one that needs twice as much as all others is not believed."""
AXES = {
    "rows": (1, "needs {0} rows", "dataset.sensor=[rows,columns], --skip_bad leaves it out"),
    "columns": (2, "needs {0} columns", "dataset.sensor=[rows,columns], --skip_bad leaves it out"),
    "end": (3, "lasts until {0}", "dataset.window=[start,end], what comes later is left out"),
}
"""Needs that one recording alone does not decide: place among the needs, wording, and the remedy."""
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class Needs(Settings):
    """The least sensor and window that hold recordings."""

    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    rows: Pixels
    columns: Pixels
    end: Annotated[int, Field(ge=1, le=LATEST + 1)]
    """Time after the last event."""
    steps: bool
    """Whether times are steps of tensors."""


class KeptNeeds(Needs):
    """Needs as the cache holds them."""

    digest: str
    """Hash of the values and of the file's name: others are of other recordings, or damaged."""


def load_needs(path: Path, find_out: Callable[[], Needs]) -> Needs:
    """The needs in the cache's file ``path``, else those that ``find_out`` finds out, which are written there."""
    try:
        kept = read_json_record(path, KeptNeeds) if path.exists() else None
        if kept is not None:
            needs = Needs(**kept.model_dump(exclude={"digest"}))
            if kept.digest == _digest(path, needs):
                return needs
            raise ReadingError(f"{path}: digest: {kept.digest!r} is not that of the values")
    except ReadingError as error:
        log.warning("%s; it is made anew", error)
    needs = find_out()
    files.write_json(path, {**needs.model_dump(), "digest": _digest(path, needs)}, durable=False)
    return needs


def _digest(path: Path, needs: Needs) -> str:
    text = f"{path.name} {sorted(needs.model_dump().items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def measure(
    recordings: Sequence[Recording],
    read: Callable[[Recording], Events],
    time: str = "",
    given: tuple[str, ...] = (),
) -> Needs:
    """Find out what recordings that can be read need; of tensors the header alone is read.

    Tensors have the shape that most of them have.

    Args:
        recordings: Each in a store.
        read: Reads one.
        time: Unit of the times of those that count, one of `TIMES`; empty: all do.
        given: Keys of `AXES` that somebody has given, so that no recording decides them.

    Raises:
        EventFileError: None can be read, some have times and others count steps, or one needs more than twice as much as all others.
    """
    needs: list[list[int]] = []
    paths: list[str] = []
    kinds: dict[bool, str] = {}
    bad = ""
    for recording in recordings:
        assert recording.store is not None
        path = recording.store.path(recording.member)
        try:
            need, steps = _tensor_of(recording) or _events_of(read(recording), path)
            if time not in ("", TIMES[steps]):
                raise EventFileError(f"{path}: has times in {TIMES[steps]}, and dataset.time is {time}")
        except EventFileError as error:  # refused or skipped where it is read to be learned from
            bad = bad or str(error)
            continue
        kinds.setdefault(steps, path)
        needs.append(need)
        paths.append(path)
    if not needs:
        raise EventFileError(f"{bad}; no recording of {len(recordings)} can be read")
    if len(kinds) > 1:
        raise EventFileError(
            f"{kinds[True]}: counts steps, and {kinds[False]} has times: they are no recordings of one kind; with"
            " dataset.time=us or steps, --skip_bad leaves the others out"
        )
    sizes, steps = np.array(needs), True in kinds
    for key in AXES if len(sizes) >= SOME else ():
        if key not in given and not (steps and key != "end"):
            _require_like_others(sizes, key, paths)
    channels, rows, columns = sizes[:, :3].max(0).tolist()
    if steps:
        (channels, rows, columns), _ = Counter(tuple(need[:3]) for need in needs).most_common(1)[0]
    values = {"channels": channels, "rows": rows, "columns": columns, "end": max(need[3] for need in needs)}
    try:
        return Needs.check("", {**values, "steps": steps})
    except RegistryError as error:
        largest = paths[int(sizes.max(1).argmax())]
        raise EventFileError(f"{largest}: {error}") from None


def _require_like_others(sizes: np.ndarray, key: str, paths: Sequence[str]) -> None:
    """Raise EventFileError for a recording that alone needs more than twice as much as all others do."""
    axis, words, remedy = AXES[key]
    *_, second, first = np.argsort(sizes[:, axis], kind="stable")
    if sizes[first, axis] > 2 * sizes[second, axis]:
        raise EventFileError(
            f"{paths[first]}: {words.format(sizes[first, axis])}, and no other recording more than {sizes[second, axis]};"
            f" with {remedy}"
        )


def _events_of(events: Events, path: str) -> tuple[list[int], bool]:
    """Channels, rows, columns and end of a recording's events, and whether times are steps. Raises EventFileError without events."""
    if len(events) == 0:
        raise EventFileError(f"{path}: holds no events")
    return [int(values.max()) + 1 for values in (events.p, events.y, events.x, events.t)], events.steps


def _tensor_of(recording: Recording) -> tuple[list[int], bool] | None:
    """The same of a tensor of counts; None for another recording. Raises EventFileError."""
    store, member = recording.store, recording.member
    assert store is not None
    if not member.lower().endswith(".npy"):
        return None
    try:
        with store.open(member) as file:
            header = read_header(file, fields=COLUMNS)
    except OSError as error:
        raise make_read_error(store.path(member), error) from None
    except ValueError as error:
        raise EventFileError(f"{store.path(member)}: no recording, or a damaged one: {error}") from None
    if len(header.shape) != 4:
        return None
    if header.bytes > store.size(member) - header.start or not header.bytes:
        raise EventFileError(f"{store.path(member)}: {list(header.shape)} of {header.dtype} are not in it")
    return [*header.shape[1:], header.shape[0]], True
