"""Your own recordings, without code: one folder per class, or a list of files with labels.

There are three layouts. DIR/CLASS/RECORDING has no split, so some recordings are held out for testing. DIR/train/CLASS/RECORDING,
DIR/test/... and DIR/validation/... define the split. DIR/manifest.csv lists files anywhere in DIR, with columns recording, label and
optionally split (or part); a manifest.npz holds arrays of equal length with these names instead. DIR may be a .zip, and CLASS any name.

A recording is a .bin of N-MNIST's bytes, 5 per event; a .npy of counts [time, channels, height, width], or of events [n, 4] as columns
t, x, y, p; a .npz of events as arrays t, x, y and p; or a .csv of events with these column names, or with the columns in this order.

If you do not set sensor and window, they are those of the tensors, or as large as the events need. A network can predict unlabelled
recordings, but cannot be trained on them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, override

from pydantic import Field, field_validator

from spiky_rl.config import files
from spiky_rl.config.options import Names, RegistryError, option, suggest_name
from spiky_rl.config.safe_loading import ReadingError, read_json_record
from spiky_rl.datasets._arrays import NUMBERS, TEXTS, read_arrays
from spiky_rl.datasets._events import (
    DAMAGE,
    MAX_CHANNELS,
    MAX_PIXELS,
    EventFileError,
    Events,
    MissingData,
    decode_events,
)
from spiky_rl.datasets._needs import Needs, measure_needs
from spiky_rl.datasets._store import RecordingStore, format_unpack_hint
from spiky_rl.datasets.base import UNKNOWN, Dataset, Recording, to_time_unit

log = logging.getLogger(__name__)

ENDINGS = (".bin", ".npy", ".npz", ".csv")
COLUMNS = {"recording": "recording", "label": "label", "split": "split", "part": "split"}
"""Key of a manifest's row by the name of the column in the file."""
MEASUREMENT_VERSION = 5
"""Version of the measurement of sensor and window; another one is measured again."""
BINS = 32
"""Default number of frames per recording."""
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
"""Part of a recording by the name of its folder or its entry in a manifest."""
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}
"""Microseconds by the name of the unit."""
LAYOUT_HELP = (
    "expected DIR/CLASS/RECORDING, or DIR/train/CLASS/RECORDING and DIR/test/CLASS/RECORDING, or DIR/manifest.csv with columns"
    " recording, label and split; a recording is .bin (N-MNIST's bytes), .npy (counts [time, channels, height, width], or events"
    " [n, 4] as t, x, y, p), .npz or .csv (t, x, y, p)"
)


class CustomDataset(Dataset):
    """Recordings in folders or with a manifest."""

    title = "own recordings"
    agent = ""
    # defaults of classify.py, see Dataset
    epochs = batch_size = None
    initial, ann = "data", "mlp"
    unread = ("bins", "binary", "names", "others")
    licence = "yours"
    source = "yours"

    class Options(Dataset.Options):
        bins: int = option(
            0,
            f"T: frames per recording, one for each control step of the network; 0 for {BINS}, or for all steps of a shorter window",
            low=0,
            high=100_000,
        )
        sensor: tuple[Annotated[int, Field(ge=1, le=MAX_PIXELS)], ...] = option(
            (), "rows and columns of the sensor; empty for as many as the recordings need"
        )
        channels: int = option(
            0,
            "channels of the sensor, such as polarities; 0 for as many as the recordings need",
            low=0,
            high=MAX_CHANNELS,
        )
        window: tuple[Annotated[int, Field(ge=0)], ...] = option(
            (),
            "start and end of the classified time, in microseconds, or in steps of tensors; empty for 0 to the last event",
        )
        unit: Literal["us", "ms", "s"] = option(
            "us", "unit of the times in columns of .npy, .npz and .csv files"
        )
        time: Literal["", "us", "steps"] = option(
            "",
            "kind of times: microseconds of events, or steps of tensors; other recordings are refused; empty if all have the same",
        )
        names: Names = option(
            (), "names of the classes, in the order of their labels; empty for all classes found, sorted"
        )
        others: Literal["refused", "unlabelled"] = option(
            "refused", "recordings of a class that is not in `names`; `--predict` treats them as unlabelled"
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

    options: Options

    def __init__(self, options: Options, data: Path) -> None:
        self.time, self.classes = options.time, options.names
        super().__init__(options, data)

    @override
    def list_recordings(self) -> list[Recording]:
        """Return all recordings; also set classes, sensor, window, number of frames, kind of times and agent from them."""
        if not self.data.exists():
            raise MissingData(f"{self.data}: no such folder; {LAYOUT_HELP}")
        store = RecordingStore(self.data)
        names = store.list_names()
        manifest = next((name for name in MANIFESTS if name in names), None)
        rows = _list_folders(names) if manifest is None else _read_manifest(store, manifest)
        if not rows:
            raise MissingData(f"{self.data}: contains no recording{format_unpack_hint(store)}; {LAYOUT_HELP}")
        folders = {row.label or "" for row in rows}
        if manifest is None and not self.classes and all(name.lower() in SPLITS for name in folders):
            raise MissingData(
                f"{self.data}: no class folders below {', '.join(sorted(folders))}; {LAYOUT_HELP}"
            )
        recordings = self._label(rows, store)
        self._infer_layout(recordings)
        self.agent = _choose_agent(self.shape)
        return recordings

    def _label(self, rows: list[ListedRecording], store: RecordingStore) -> list[Recording]:
        """Return the recordings with labels, and set the classes: the option ``names``, or the sorted class names in ``rows`` if it is empty."""
        names = sorted({row.label for row in rows if row.label is not None}, key=_natural_sort_key)
        self.classes = self.classes or tuple(names)
        if unknown_classes := [name for name in names if name not in self.classes]:
            self._check_unknown_classes(unknown_classes)
        labels = {name: i for i, name in enumerate(self.classes)}
        return [
            Recording(row.name, labels.get(row.label or "", UNKNOWN), row.part, store=store, member=row.name)
            for row in rows
        ]

    @override
    def read_events(self, recording: Recording) -> Events:
        assert recording.store is not None
        data, path = recording.store.read(recording.member), self.path(recording)
        required_shape = getattr(self, "shape", None)  # not set while `_infer_layout` measures the recordings
        events = decode_events(data, path, UNITS[self.options.unit], required_shape)
        time = to_time_unit(events.steps)
        if self.time and self.time != time:
            raise EventFileError(
                f"{path}: has times in {time}; expected {self.time}, like the others or dataset.time"
            )
        return events

    def settings(self) -> Mapping[str, Any]:
        layout = {"sensor": self.shape[1:], "channels": self.shape[0], "window": self.window}
        times = {"unit": self.options.unit, "time": self.time}
        return {**super().settings(), **layout, **times, "names": self.classes}

    def _check_unknown_classes(self, unknown_classes: list[str]) -> None:
        """Raise MissingData for unknown classes, or log that their recordings are unlabelled, by the option ``others``."""
        name, known = unknown_classes[0], ", ".join(self.classes)
        if self.options.others == "refused":
            raise MissingData(
                f"{self.data}: unknown class {name!r}; allowed: {known}{suggest_name(name, self.classes)}; dataset.others=unlabelled"
                " takes its recordings without a class"
            )
        log.info(
            "%s: recordings of %s are taken as unlabelled; the classes are %s",
            self.data,
            ", ".join(unknown_classes),
            known,
        )

    def _infer_layout(self, recordings: list[Recording]) -> None:
        """Set sensor and window from the options, else from the recordings; the result is kept in the cache."""
        sensor, channels, window = self.options.sensor, self.options.channels, self.options.window
        if not (sensor and channels and window):
            needs = self._load_needs(recordings)
            channels = channels or needs.channels
            sensor = sensor or (needs.rows, needs.columns)
            window = window or (0, needs.end)
            self.time = self.time or to_time_unit(needs.steps)
            log.info(
                "%s: %d channels, %d x %d pixels, times from %d to %d; set dataset.channels, .sensor and .window to change this",
                self.data, channels, sensor[0], sensor[1], window[0], window[1],
            )  # fmt: skip
        self.shape, self.window = (channels, *sensor), tuple(window)  # type: ignore[assignment]
        self.bins = self.bins or min(BINS, self.window[1] - self.window[0])
        self.time = self.time or self._get_first_time(recordings)

    def _load_needs(self, recordings: list[Recording]) -> Needs:
        """Return the needs of the ``recordings`` from the cache, or measure them."""
        stamps = [
            f"{r.member} {r.store.get_fingerprint(r.member)}" for r in recordings if r.store is not None
        ]
        set_keys = ("rows", "columns") if self.options.sensor else ()
        set_keys += ("end",) if self.options.window else ()
        request = f"{MEASUREMENT_VERSION} {self.data.resolve()} {self.options.unit} {self.time} {set_keys}"
        key = hashlib.sha256("\n".join([request, *stamps]).encode()).hexdigest()[:16]
        path = files.cache_folder() / "frames" / f"own-{key}.json"
        try:
            if path.exists():
                return read_json_record(path, Needs)
        except ReadingError as error:
            log.warning("%s; it is made anew", error)
        log.info("%s: reading %d recordings once to measure sensor and window", self.data, len(recordings))
        needs = measure_needs(recordings, self.read_events, self.time, set_keys)
        files.write_json(path, needs.model_dump(), durable=False)
        return needs

    def _get_first_time(self, recordings: list[Recording]) -> str:
        """Return the unit of times of the first readable recording."""
        for recording in recordings:
            try:
                return to_time_unit(self.read_events(recording).steps)
            except EventFileError:  # it is refused or skipped later, when it is read for training
                continue
        return "us"


def _choose_agent(shape: tuple[int, int, int]) -> str:
    """Return the agent whose layers fit a sensor of ``shape``: channels, rows and columns."""
    pixels = min(shape[1:])
    if pixels >= 16:
        return "lif_conv_classifier"
    return "lif_conv_small_classifier" if pixels >= 7 else "lif_linear_classifier"


class ListedRecording(NamedTuple):
    """A recording as folders or a manifest describe it."""

    name: str
    label: str | None
    """Name of the class; None if the recording is unlabelled."""
    part: str


def _list_folders(names: list[str]) -> list[ListedRecording]:
    """Return all recordings among the files ``names``, with classes and parts from their folders. Raises MissingData."""
    names = [name for name in names if name.lower().endswith(ENDINGS)]
    folders = _drop_outer_folder([name.split("/")[:-1] for name in names])
    _check_splits({nested[0] for nested in folders if len(nested) > 1})
    return [_read_folders(name, nested) for name, nested in zip(names, folders, strict=True)]


def _check_splits(outer_folders: set[str]) -> None:
    """Raise MissingData if some of the ``outer_folders``, which contain folders, are parts of a split and others are not."""
    splits = sorted(folder for folder in outer_folders if folder.lower() in SPLITS)
    if splits and (others := outer_folders - {*splits}):
        other = min(others)
        raise MissingData(
            f"{other}: unknown split folder beside {splits[0]}; allowed: {', '.join(SPLITS)}{suggest_name(other.lower(), SPLITS)}"
        )


def _drop_outer_folder(folders: list[list[str]]) -> list[list[str]]:
    """Return the ``folders`` of recordings without a folder that contains all class folders, as in many archives."""
    if not folders or min(len(nested) for nested in folders) < 2:
        return folders
    outer = folders[0][0]
    if outer.lower() in SPLITS or any(nested[0] != outer for nested in folders):
        return folders
    return [nested[1:] for nested in folders]


def _read_folders(name: str, folders: list[str]) -> ListedRecording:
    """Return the recording ``name`` with class and part from its nested ``folders``: [CLASS], [SPLIT, CLASS], or none."""
    part = SPLITS.get(folders[0].lower()) if len(folders) > 1 else None
    inner_folders = folders[1:] if part else folders
    return ListedRecording(name, inner_folders[0] if inner_folders else None, part or "train")


def _read_manifest(store: RecordingStore, manifest: str) -> list[ListedRecording]:
    """Return all recordings in a manifest. Raises EventFileError that names the row."""
    path, rows = store.path(manifest), _read_manifest_rows(store, manifest)
    if not rows or "recording" not in rows[0]:
        raise EventFileError(
            f"{path}: expected columns recording, label and split, and a row for each recording"
        )
    listed: list[ListedRecording] = []
    first_rows: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        split = (row.get("split") or "train").strip().lower()
        if split not in SPLITS:
            raise EventFileError(
                f"{path}: row {number}: unknown split {split!r}; allowed: {', '.join(SPLITS)}{suggest_name(split, SPLITS)}"
            )
        name = (row["recording"] or "").strip()
        if (first := first_rows.setdefault(name, number)) != number:
            raise EventFileError(f"{path}: row {number}: {name!r} is in row {first} already")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise EventFileError(f"{path}: row {number}: {name!r} leads out of {store.root}")
        listed.append(ListedRecording(name, (row.get("label") or "").strip() or None, SPLITS[split]))
    return listed


def _read_manifest_rows(store: RecordingStore, manifest: str) -> list[dict[str, str | None]]:
    """Return the rows of a manifest by the meaning of their columns. Raises EventFileError if it is damaged."""
    data = store.read(manifest)
    rows: list[dict[str, str | None]]
    try:
        if manifest.endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
        else:
            arrays = read_arrays(io.BytesIO(data), kinds=NUMBERS + TEXTS)
            rows = []
            for cells in zip(*arrays.values(), strict=True):
                # arrays of bytes hold UTF-8
                texts = (cell.decode() if isinstance(cell, bytes) else str(cell) for cell in cells)
                rows.append(dict(zip(arrays, texts, strict=True)))
    except DAMAGE as error:
        raise EventFileError(f"{store.path(manifest)}: not a manifest, or damaged: {error}") from None
    return [{COLUMNS.get(str(key).strip().lower(), ""): cell for key, cell in row.items()} for row in rows]


def _natural_sort_key(name: str) -> tuple[bool, int, str]:
    """Return a sort key that puts names that are whole numbers first, by value."""
    is_number = name.isdecimal() and len(name) < 100  # `int` refuses thousands of digits
    return (not is_number, int(name) if is_number else 0, name)
