"""The smallest sensor and window that hold all recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from spiky_rl.config.options import RegistryError, Settings
from spiky_rl.datasets._arrays import read_header
from spiky_rl.datasets._events import COLUMNS, LATEST, MAX_CHANNELS, MAX_PIXELS, EventFileError, Events
from spiky_rl.datasets._store import make_read_error
from spiky_rl.datasets.base import Recording, to_time_unit

MIN_CHECKED = 10
"""Minimum number of recordings for the checks that none needs more than twice as much as all others, and that times are relative."""
_SENSOR_REMEDY = "set dataset.sensor=[rows,columns], and --skip_bad skips this recording"
OUTLIER_CHECKS = {
    "rows": (1, "needs {0} rows", _SENSOR_REMEDY),
    "columns": (2, "needs {0} columns", _SENSOR_REMEDY),
    "end": (3, "lasts until {0}", "set dataset.window=[start,end], and later events are ignored"),
}
"""Needs that this check covers: index in channels, rows, columns, end; text of the error; and its remedy."""
Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]


class Needs(Settings):
    """The smallest sensor and window that hold all recordings."""

    channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
    rows: Pixels
    columns: Pixels
    end: Annotated[int, Field(ge=1, le=LATEST + 1)]
    """Time after the last event."""
    steps: bool
    """Whether times are steps of tensors."""


def measure_needs(
    recordings: Sequence[Recording],
    read: Callable[[Recording], Events],
    time: str,
    set_keys: tuple[str, ...],
) -> Needs:
    """Measure the needs of all readable recordings. A tensor is measured by its header alone.

    If tensors differ in shape, the most frequent shape counts.

    Args:
        time: Required unit of times, a `TimeUnit`; recordings with another unit are ignored. Empty for any.
        set_keys: Keys of `OUTLIER_CHECKS` that the user has set, so that they are not checked.

    Raises:
        EventFileError: If no recording can be read, if some have times in microseconds and others in steps, if one needs more than
            twice as much as all others, or if times are not relative to the beginnings of recordings.
    """
    needs, kinds = _measure_readable(recordings, read, time)
    if len(kinds) > 1:
        raise EventFileError(
            f"{kinds[True]}: has times in steps, but {kinds[False]} in microseconds; set dataset.time to us or steps, and --skip_bad"
            " skips the other recordings"
        )
    paths, sizes, steps = list(needs), np.array(list(needs.values())), True in kinds
    if len(sizes) >= MIN_CHECKED:
        # tensors of other shapes are refused later, one by one
        checked = ("end",) if steps else OUTLIER_CHECKS
        for key in checked:
            if key not in set_keys:
                _require_like_others(sizes, key, paths)
        if not steps and "end" not in set_keys:
            _require_relative_times(sizes, paths)
    channels, rows, columns = sizes[:, :3].max(0).tolist()
    if steps:
        (channels, rows, columns), _ = Counter(tuple(need[:3]) for need in needs.values()).most_common(1)[0]
    end = max(need[3] for need in needs.values())
    try:
        return Needs.check(
            "", {"channels": channels, "rows": rows, "columns": columns, "end": end, "steps": steps}
        )
    except RegistryError as error:
        largest = paths[int(sizes.max(1).argmax())]
        raise EventFileError(f"{largest}: {error}") from None


def _measure_readable(
    recordings: Sequence[Recording], read: Callable[[Recording], Events], time: str
) -> tuple[dict[str, list[int]], dict[bool, str]]:
    """Return the needs of readable recordings by path, and the first path with times in steps (True) and in microseconds (False).

    Raises EventFileError if no recording can be read; see `measure_needs` for the arguments.
    """
    needs: dict[str, list[int]] = {}
    kinds: dict[bool, str] = {}
    first_error = ""
    for recording in recordings:
        assert recording.store is not None
        path = recording.store.path(recording.member)
        try:
            need, steps = _measure_tensor(recording) or _measure_events(read(recording), path)
            if time not in ("", to_time_unit(steps)):
                raise EventFileError(
                    f"{path}: has times in {to_time_unit(steps)}, but dataset.time is {time}"
                )
        except EventFileError as error:  # it is refused or skipped later, when it is read for training
            first_error = first_error or str(error)
            continue
        kinds.setdefault(steps, path)
        needs[path] = need
    if not needs:
        raise EventFileError(f"{first_error}; no recording of {len(recordings)} can be read")
    return needs, kinds


def _require_like_others(sizes: np.ndarray, key: str, paths: Sequence[str]) -> None:
    """Raise EventFileError if a single recording needs more than twice as much as all others."""
    axis, wording, remedy = OUTLIER_CHECKS[key]
    *_, second, first = np.argsort(sizes[:, axis], kind="stable")
    if sizes[first, axis] > 2 * sizes[second, axis]:
        raise EventFileError(
            f"{paths[first]}: {wording.format(sizes[first, axis])}, the other recordings at most {sizes[second, axis]}; {remedy}"
        )


def _require_relative_times(sizes: np.ndarray, paths: Sequence[str]) -> None:
    """Raise EventFileError if no recording lasts a quarter of the window that all of them need, as with times of a camera's clock."""
    end, longest = sizes[:, 3].max(), sizes[:, 4].max()
    if 4 * longest < end:
        latest = paths[int(sizes[:, 3].argmax())]
        raise EventFileError(
            f"{latest}: lasts until {end}, but no recording lasts longer than {longest}, so most frames would be empty; subtract the"
            " time of each recording's beginning, or set dataset.window=[start,end]"
        )


def _measure_events(events: Events, path: str) -> tuple[list[int], bool]:
    """Return channels, rows, columns, end and duration of ``events``, and whether times are steps.

    Raises EventFileError without events.
    """
    if len(events) == 0:
        raise EventFileError(f"{path}: holds no events")
    sizes = [int(values.max()) + 1 for values in (events.p, events.y, events.x, events.t)]
    return [*sizes, sizes[3] - int(events.t.min())], events.steps


def _measure_tensor(recording: Recording) -> tuple[list[int], bool] | None:
    """Return the result of `_measure_events` for a tensor of counts, from its header; None if the recording is no tensor.

    Raises EventFileError if the file is damaged.
    """
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
        raise EventFileError(f"{store.path(member)}: not a recording, or damaged: {error}") from None
    if len(header.shape) != 4:
        return None
    if header.bytes > store.size(member) - header.start or not header.bytes:
        raise EventFileError(
            f"{store.path(member)}: declares {list(header.shape)} of {header.dtype}; the file is shorter"
        )
    return [*header.shape[1:], header.shape[0], header.shape[0]], True
