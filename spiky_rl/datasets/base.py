"""Base class of datasets: labelled recordings of one sensor. A class declares layout, classes, split, licence and source.

A recording is a set of events, each with channel, row, column and time. The events in the window are counted into successive frames:

    frame[k, p, y, x] = number of events with channel p at (x, y) and a time t with k = floor(bins (t - start) / (end - start))

The window begins at a fixed time, not at the first event, so that a frame covers the same time in every recording.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from spiky_rl.config.options import RegistryError, Settings, option
from spiky_rl.config.registry import Component
from spiky_rl.datasets._download import DatasetArchive
from spiky_rl.datasets._events import EventFileError, Events
from spiky_rl.datasets._store import RecordingStore

PARTS = ("train", "validation", "test")
type TimeUnit = Literal["us", "steps"]
"""Unit of a recording's times: microseconds, or steps of tensors."""
type Initial = Literal["agent", "data"]
"""Initial weights: as the agent draws them, or drawn so and then scaled to the recordings."""
type Ann = Literal["none", "mlp"]
"""ANN that is trained for comparison: none, or a perceptron on all frames."""
UNKNOWN = -1
"""Label of an unlabelled recording."""


def to_time_unit(times_are_steps: bool) -> TimeUnit:
    """Return the unit of times by whether they are steps of tensors."""
    return "steps" if times_are_steps else "us"


@dataclass(frozen=True)
class Recording:
    """One recording, before it is read."""

    name: str
    """Unique name, independent of the dataset's folder and format."""
    label: int
    """Index of the class, or `UNKNOWN`."""
    part: str
    """One of `PARTS`; always ``train`` if the dataset has no official split."""
    store: RecordingStore | None = None
    member: str = ""
    """Name of the file in the store."""
    row: int = 0
    """Index in a file of many recordings."""
    fault: str = ""
    """Reason why the recording cannot be used; it is refused or skipped when it is read."""


def declare_bins(bins: int) -> Any:
    """Declare a dataset's option ``bins``, the number of frames, with the default ``bins``."""
    return option(
        bins, "T: frames per recording, which are the control steps of the network", low=1, high=100_000
    )


class Dataset(Component):
    """Recordings of one sensor. A subclass declares the sensor, and finds and reads the recordings."""

    class Options(Settings):
        """Options of every dataset."""

        bins: int = declare_bins(10)
        binary: bool = option(False, "true: a frame is 1 where there are events; false: it counts them")

    options: Options
    title: ClassVar[str] = "recordings"
    """Name of the dataset, as its authors write it."""
    licence: ClassVar[str] = "not said"
    """Licence, or the terms of use in words."""
    source: ClassVar[str] = "not said"
    """Address or DOI."""
    shape: tuple[int, int, int]
    """Channels, rows and columns of the sensor."""
    window: tuple[int, int]
    """Start and end of the classified time (end excluded), in microseconds, or in steps if `times_are_steps`."""
    times_are_steps: ClassVar[bool] = False
    """Whether times are steps of tensors instead of microseconds."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the labels."""
    scale: ClassVar[float] = 1.0
    """Value of one event in a frame that counts events."""
    synthetic: str = ""
    """Description of the simulated sensor; empty if the recordings are real."""
    archives: ClassVar[tuple[DatasetArchive, ...]] = ()
    """Archives that ``--download`` fetches into the folder ``home`` below the data folder."""
    home: ClassVar[str] = ""
    agent: str = "lif_conv_classifier"
    """Default agent; empty if an instance chooses the agent that fits its recordings."""
    epochs: ClassVar[int | None] = 30
    """Default number of passes over the samples; None if it depends on the number of samples."""
    batch_size: ClassVar[int | None] = 50
    """Default number of samples per gradient step; None if it depends on the number of samples."""
    shift: ClassVar[float] = 0.0
    """Default augmentation: maximum shift of a sample, in pixels."""
    rotation: ClassVar[float] = 0.0
    """Default augmentation: maximum rotation of a sample, in degrees."""
    initial: ClassVar[Initial] = "agent"
    """Default initial weights."""
    ann: ClassVar[Ann] = "none"
    """Default ANN that is trained on the same frames."""
    unread: ClassVar[tuple[str, ...]] = ("bins", "binary")
    """Options that do not affect how events are read."""

    def __init__(self, options: Options, data: Path) -> None:
        """``data`` is the folder of the datasets. Raises MissingData if the dataset is not there, EventFileError for an unknown label."""
        self.options = options
        self.data, self.bins, self.binary = data, options.bins, options.binary
        self.recordings = self.list_recordings()
        for recording in self.recordings:
            if not UNKNOWN <= recording.label < len(self.classes):
                raise EventFileError(
                    f"{self.path(recording)}: label {recording.label} given; allowed: 0 to {len(self.classes) - 1}"
                )
        start, end = self.window
        if self.bins > end - start:
            raise RegistryError(
                f"dataset.bins: {self.bins} frames in a window of {end - start}; allowed: at most {end - start}"
            )

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        """Return the dataset's declaration as pairs of name and text."""
        sensor, window, classes = (getattr(cls, key, ()) for key in ("shape", "window", "classes"))
        rows = {
            "title": cls.title,
            "licence": cls.licence,
            "source": cls.source,
            "sensor": sensor and f"{sensor[0]} channels, {sensor[1]} x {sensor[2]} pixels",
            "window": window and f"from {window[0]} to {window[1]}",
            "classes": ", ".join(classes),
            "agent": cls.agent or "one that fits the sensor",
        }
        return [(name, text) for name, text in rows.items() if text]

    @abstractmethod
    def list_recordings(self) -> list[Recording]:
        """Return all recordings without reading them, in an order that does not depend on their folder. Raises MissingData."""

    @abstractmethod
    def read_events(self, recording: Recording) -> Events:
        """Return the events of a ``recording``. Raises EventFileError if it is damaged."""

    def path(self, recording: Recording) -> str:
        """Return the path of a ``recording``, for messages."""
        return recording.store.path(recording.member) if recording.store else f"{self.title} {recording.name}"

    def get_fingerprints(self) -> Iterator[str]:
        """Yield texts that change with the recordings' files, without reading the files.

        A recording without a store may come from any file in the folder, so all files count.
        """
        files = {(id(r.store), r.member): r for r in self.recordings if r.store is not None}
        for recording in files.values():
            assert recording.store is not None
            yield f"{recording.member} {recording.store.get_fingerprint(recording.member)}"
        if any(r.store is None for r in self.recordings) and self.data.exists():
            is_file = self.data.is_file()
            folder = RecordingStore(self.data.parent if is_file else self.data)
            names = [self.data.name] if is_file else folder.list_names()
            yield from (f"{name} {folder.get_fingerprint(name)}" for name in names)

    def get_reader_fingerprint(self) -> str:
        """Return a text that changes with everything that affects reading: the folder, the settings, and the code of the class."""
        settings = {**self.options.model_dump(), **self.settings()}
        read = {key: value for key, value in settings.items() if key not in self.unread}
        code = hashlib.sha256(
            inspect.getsource(inspect.getmodule(type(self)) or type(self)).encode()
        ).hexdigest()
        return f"{self.data.resolve()} {read} {code}"

    def settings(self) -> Mapping[str, Any]:
        """Return the settings that determine the frames, whether the user set them or they come from the recordings."""
        return {"bins": self.bins, "binary": self.binary}


counted = declare_bins
"""The old name, for one release."""
