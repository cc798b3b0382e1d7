"""Your own recordings, without code: a folder for each class, or a list of files with their labels.

DIR/CLASS/RECORDING has all to learn from, some of which are held out; DIR/train/CLASS/RECORDING with DIR/test/... and DIR/validation/...
beside it has a split of your own. DIR/manifest.csv with columns recording, label and, if there is one, split (or part) lists files that lie
anywhere in DIR; manifest.npz does it with equal lists by these names. DIR may be a .zip, and CLASS any name.

A recording is a .bin of N-MNIST's bytes, 5 an event; a .npy of counts [time, channels, height, width], or of events [n, 4] as columns
t, x, y, p; a .npz of events as arrays t, x, y and p; or a .csv of events with these names above its columns, or in this order.

Sensor and window are those of the tensors, or as large as the events need, unless they are given. Without labels recordings can be
predicted, but not learned from.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, override

from pydantic import Field, field_validator

from spiky_rl.config import files
from spiky_rl.config.options import Names, RegistryError, option, suggest_name
from spiky_rl.datasets._arrays import NUMBERS, TEXTS, read_arrays
from spiky_rl.datasets._events import (
    DAMAGE,
    MOST_CHANNELS,
    MOST_PIXELS,
    EventFileError,
    Events,
    MissingData,
    decode_events,
)
from spiky_rl.datasets._needs import Needs, load_needs, measure
from spiky_rl.datasets._store import RecordingStore, format_unpack_hint
from spiky_rl.datasets.base import TIMES, UNKNOWN, Dataset, Recording

log = logging.getLogger(__name__)

ENDINGS = (".bin", ".npy", ".npz", ".csv")
COLUMNS = {"recording": "recording", "label": "label", "split": "split", "part": "split"}
"""Column of a manifest -> what it says."""
BINS = 32
"""Frames of a recording, unless said otherwise."""
MANIFESTS = ("manifest.csv", "manifest.npz")
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}
LAYOUT = (
    "expected DIR/CLASS/RECORDING, or DIR/train/CLASS/RECORDING and DIR/test/CLASS/RECORDING, or DIR/manifest.csv with columns"
    " recording, label and split; a recording is .bin (N-MNIST's bytes), .npy (counts [time, channels, height, width], or events"
    " [n, 4] as t, x, y, p), .npz or .csv (t, x, y, p)"
)


class CustomDataset(Dataset):
    """Recordings in a layout that anybody can make."""

    title = "own recordings"
    agent = ""
    epochs = batch_size = None
    initial, ann = "data", "mlp"
    licence = "yours"
    source = "yours"

    class Options(Dataset.Options):
        bins: int = option(
            0,
            f"T: frames of a recording, control steps of the network; 0: {BINS}, or the window's steps where they are fewer",
            low=0,
            high=100_000,
        )
        sensor: tuple[Annotated[int, Field(ge=1, le=MOST_PIXELS)], ...] = option(
            (), "rows and columns; empty: as the recordings need"
        )
        channels: int = option(
            0, "polarities, or channels of tensors; 0: as the recordings need", low=0, high=MOST_CHANNELS
        )
        window: tuple[Annotated[int, Field(ge=0)], ...] = option(
            (),
            "first and last time of what is classified, in microseconds, or steps of tensors; empty: from 0 to the latest",
        )
        unit: Literal["us", "ms", "s"] = option("us", "unit of the times that stand in columns")
        time: Literal["", "us", "steps"] = option(
            "",
            "what times of recordings are: microseconds, or steps of tensors; empty: as all of them have it",
        )
        names: Names = option(
            (), "names of the classes, in the order of their labels; empty: those that are there, sorted"
        )
        others: Literal["refused", "unlabelled"] = option(
            "refused", "recordings of a class that is none of `names`; `--predict` takes them as unlabelled"
        )

        @field_validator("sensor", "window")
        @classmethod
        def _check_two_values(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
            if len(numbers) not in (0, 2):
                raise RegistryError(f"{list(numbers)} has {len(numbers)} values; it must have 0 or 2")
            return numbers

        @field_validator("window")
        @classmethod
        def _check_window_order(cls, window: tuple[int, ...]) -> tuple[int, ...]:
            if window and window[0] >= window[1]:
                raise RegistryError(f"{list(window)} ends before it begins")
            return window

    def __init__(self, options: Options, data: Path) -> None:
        self.unit, self.classes, self.others = options.unit, options.names, options.others
        self.given, self.time = (options.sensor, options.channels, options.window), options.time
        super().__init__(options, data)

    def list_recordings(self) -> list[Recording]:
        if not self.data.exists():
            raise MissingData(f"{self.data}: there is no such folder; {LAYOUT}")
        store = RecordingStore(self.data)
        names = store.names()
        if store.outward:
            raise MissingData(
                f"{store.outward[0]}: is a link that leads out of {self.data}; put the recordings themselves there"
            )
        manifest = next((name for name in MANIFESTS if name in names), None)
        rows = _of_folders(names) if manifest is None else _of_manifest(store, manifest)
        if not rows:
            raise MissingData(
                f"{self.data}: there is no recording in it{format_unpack_hint(store)}; {LAYOUT}"
            )
        there = sorted({label for _, label, _ in rows if label is not None}, key=_natural_sort_key)
        self.classes = self.classes or tuple(there)
        if strangers := [name for name in there if name not in self.classes]:
            self._check_unknown_classes(strangers)
        label_of = {name: i for i, name in enumerate(self.classes)}
        recordings = [
            Recording(name, label_of.get(label or "", UNKNOWN), part, store, name)
            for name, label, part in rows
        ]
        self._infer_layout(recordings)
        self.agent = _agent_for(self.shape)
        return recordings

    @override
    def read_events(self, recording: Recording) -> Events:
        assert recording.store is not None
        data, path = recording.store.read(recording.member), self.path(recording)
        events = decode_events(data, path, UNITS[self.unit], getattr(self, "shape", None))
        if self.time and self.time != TIMES[events.steps]:
            raise EventFileError(
                f"{path}: has times in {TIMES[events.steps]}, and the others, or dataset.time, in {self.time}"
            )
        return events

    def settings(self) -> Mapping[str, Any]:
        sees = {"sensor": self.shape[1:], "channels": self.shape[0], "window": self.window}
        return {**super().settings(), **sees, "unit": self.unit, "time": self.time, "names": self.classes}

    def _check_unknown_classes(self, unknown_classes: list[str]) -> None:
        """Refuse classes that are none of those named, with MissingData, or say that they count as none."""
        name, known = unknown_classes[0], ", ".join(self.classes)
        if self.others == "refused":
            raise MissingData(
                f"{self.data}: class {name!r} is none of {known}{suggest_name(name, self.classes)}; with dataset.others=unlabelled its"
                " recordings have no class"
            )
        log.info(
            "%s: recordings of %s have no class here, which is one of %s",
            self.data,
            ", ".join(unknown_classes),
            known,
        )

    def _infer_layout(self, recordings: list[Recording]) -> None:
        """Take sensor and window as they are given, else from the recordings; what was found out is kept in the cache."""
        sensor, channels, window = self.given
        if not (sensor and channels and window):
            stamps = [
                f"{r.member} {r.store.get_fingerprint(r.member)}" for r in recordings if r.store is not None
            ]
            given = (*(("rows", "columns") if sensor else ()), *(("end",) if window else ()))
            asked = f"3 {self.data.resolve()} {self.unit} {self.time} {given}"
            key = hashlib.sha256("\n".join([asked, *stamps]).encode()).hexdigest()[:16]

            def measure_once() -> Needs:
                log.info("%s: reading %d recordings once to see what they need", self.data, len(recordings))
                return measure(recordings, self.read_events, self.time, given)

            needs = load_needs(files.cache_folder() / "frames" / f"own-{key}.json", measure_once)
            channels, sensor, window = (
                channels or needs.channels,
                sensor or (needs.rows, needs.columns),
                window or (0, needs.end),
            )
            self.time = self.time or TIMES[needs.steps]
            log.info(
                "%s: %d channels, %d x %d pixels, times from %d to %d, unless dataset.channels, .sensor and .window say otherwise",
                *(self.data, channels, *sensor, *window),
            )
        self.shape, self.window = (channels, *sensor), tuple(window)  # type: ignore[assignment]
        self.bins = self.bins or min(BINS, self.window[1] - self.window[0])
        self.time = self.time or self._time_of_first(recordings)

    def _time_of_first(self, recordings: list[Recording]) -> str:
        """What the times of the first recording are that can be read."""
        for recording in recordings:
            try:
                return TIMES[self.read_events(recording).steps]
            except EventFileError:  # refused or skipped where it is read to be learned from
                continue
        return TIMES[False]


def _agent_for(shape: tuple[int, int, int]) -> str:
    """The agent whose layers fit a sensor of some channels, rows and columns."""
    fits = {"lif_conv_classifier": 16, "lif_conv_small_classifier": 7, "lif_linear_classifier": 0}
    return next(agent for agent, pixels in fits.items() if min(shape[1:]) >= pixels)


def _of_folders(names: list[str]) -> list[tuple[str, str | None, str]]:
    """Name, class and part of every recording, by the folders that it lies in."""
    split = [name.split("/") for name in names if name.lower().endswith(ENDINGS)]
    if split and len({parts[0] for parts in split}) == 1 and split[0][0].lower() not in SPLITS:
        if all(len(parts) > 2 for parts in split):  # one folder around all, as archives have it
            split = [parts[1:] for parts in split]
    tops = {parts[0] for parts in split if len(parts) > 2}
    if (parts_there := sorted(top for top in tops if top.lower() in SPLITS)) and len(tops) > len(parts_there):
        other = min(tops - {*parts_there})
        raise MissingData(
            f"{other}: stands beside {parts_there[0]}, and is none of {', '.join(SPLITS)}{suggest_name(other.lower(), SPLITS)}"
        )
    rows: list[tuple[str, str | None, str]] = []
    for name, parts in zip((n for n in names if n.lower().endswith(ENDINGS)), split, strict=True):
        part = SPLITS.get(parts[0].lower()) if len(parts) > 2 else None
        place = parts[1:] if part else parts
        rows.append((name, place[0] if len(place) > 1 else None, part or "train"))
    return rows


def _of_manifest(store: RecordingStore, manifest: str) -> list[tuple[str, str | None, str]]:
    """Name, class and part of every recording that a manifest lists. Raises EventFileError that names the row."""
    path, data = store.path(manifest), store.read(manifest)
    try:
        if manifest.endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        else:
            held = read_arrays(io.BytesIO(data), kinds=NUMBERS + TEXTS)
            columns = {key: [str(cell) for cell in held[key]] for key in held}
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    except DAMAGE as error:
        raise EventFileError(f"{path}: no manifest, or a damaged one: {error}") from None
    rows = [{COLUMNS.get(str(key).strip().lower(), ""): cell for key, cell in row.items()} for row in rows]
    if not rows or "recording" not in rows[0]:
        raise EventFileError(
            f"{path}: expected columns recording, label and split, and a row for each recording"
        )
    listed: list[tuple[str, str | None, str]] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        split = (row.get("split") or "train").strip().lower()
        if split not in SPLITS:
            raise EventFileError(
                f"{path}: row {number}: split {split!r} is none of {', '.join(SPLITS)}{suggest_name(split, SPLITS)}"
            )
        name = (row["recording"] or "").strip()
        if (first := seen.setdefault(name, number)) != number:
            raise EventFileError(f"{path}: row {number}: {name!r} stands in row {first} already")
        listed.append((name, (row.get("label") or "").strip() or None, SPLITS[split]))
    return listed


def _natural_sort_key(name: str) -> tuple[bool, int, str]:
    """Whole numbers by their value, before all else."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
