"""What every dataset is: labelled recordings of one sensor, whose layout, classes, split, licence and source are declared once.

A recording is events at (channel, row, column) and a time. Within the window they are counted into frames, one after another:

    frame[k, p, y, x] = number of events with p at (x, y) whose time t has k = floor(bins (t - start) / (end - start))

The window begins at a fixed time and not at the first event, so that a frame means the same in every recording.
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
from spiky_rl.datasets._events import Events
from spiky_rl.datasets._store import RecordingStore

PARTS = ("train", "validation", "test")
TIMES = {False: "us", True: "steps"}
"""Whether times are steps of tensors -> their unit."""
type Initial = Literal["agent", "data"]
"""How initial weights are drawn: as the agent says, or so and then scaled to the recordings."""
type Ann = Literal["none", "mlp"]
"""An ANN that is trained beside: none, or a perceptron on all frames."""
UNKNOWN = -1
"""The label of a recording that nobody has labelled."""


@dataclass(frozen=True)
class Recording:
    """One recording, before it is read."""

    name: str
    """The same wherever the dataset lies, and whatever form it has there."""
    label: int
    """Index of its class; `UNKNOWN`."""
    part: str
    """One of `PARTS`; of a dataset without an official split all are ``train``."""
    store: RecordingStore | None = None
    member: str = ""
    """Its file in the store."""
    row: int = 0
    """Its place in that file, where the file holds many."""


def declare_bins(bins: int) -> Any:
    """Declare into how many frames a dataset's events are counted: ``bins`` where nothing else is said."""
    return option(bins, "T: frames of a recording, control steps of the network", low=1, high=100_000)


class Dataset(Component):
    """Recordings of one sensor. An entry declares what it is, and says how they are found and read."""

    renamed = {
        "find": "list_recordings",
        "read": "read_events",
        "about": "describe",
        "stamps": "get_fingerprints",
        "reader": "get_reader_fingerprint",
    }

    class Options(Settings):
        """Options of every dataset."""

        bins: int = declare_bins(10)
        binary: bool = option(False, "whether a frame says that there were events, or how many")

    options: Options
    title: ClassVar[str] = "recordings"
    """As its authors write it."""
    licence: ClassVar[str] = "not said"
    """On what terms it may be used; in words where there is no licence."""
    source: ClassVar[str] = "not said"
    """Where it comes from: an address, or a doi."""
    shape: tuple[int, int, int]
    """Channels, rows and columns of the sensor."""
    window: tuple[int, int]
    """First and last time of what is classified, the last one excluded: microseconds, or steps of a tensor,"""
    steps: ClassVar[bool] = False
    """which its times are."""
    classes: tuple[str, ...]
    """Their names, in the order of the labels."""
    scale: ClassVar[float] = 1.0
    """What an event counts in a frame."""
    synthetic: str = ""
    """What stood in for the sensor; empty: nothing, the recordings are real."""
    archives: ClassVar[tuple[DatasetArchive, ...]] = ()
    """What ``--download`` fetches, into the folder ``home`` below the data folder."""
    home: ClassVar[str] = ""
    agent: str = "lif_conv_classifier"
    """The agent that is trained on it unless another is named; empty: an instance has the one that fits its recordings."""
    epochs: ClassVar[int | None] = 30
    """Unless said otherwise: passes over the samples, None if their number decides,"""
    batch_size: ClassVar[int | None] = 50
    """samples that are learned from at once, None if their number decides,"""
    shift: ClassVar[float] = 0.0
    """augmentation: pixels that a sample is moved by at most,"""
    rotation: ClassVar[float] = 0.0
    """degrees that it is turned by at most,"""
    initial: ClassVar[Initial] = "agent"
    """what draws the initial weights,"""
    ann: ClassVar[Ann] = "none"
    """and the ANN that is trained on the same frames."""

    def __init__(self, options: Options, data: Path) -> None:
        """``data``: the folder of the datasets. Raises MissingData where this one is not there."""
        self.options = options
        self.data, self.bins, self.binary = data, options.bins, options.binary
        self.recordings = self.list_recordings()
        start, end = self.window
        if self.bins > end - start:
            raise RegistryError(
                f"dataset.bins: {self.bins} frames do not fit a window of {end - start}; take at most so many"
            )

    @classmethod
    def describe(cls) -> list[tuple[str, str]]:
        """The dataset's declaration as pairs of name and text."""
        sensor, window, classes = (getattr(cls, key, ()) for key in ("shape", "window", "classes"))
        rows = [("title", cls.title), ("licence", cls.licence), ("source", cls.source)]
        rows += [("sensor", f"{sensor[0]} channels, {sensor[1]} x {sensor[2]} pixels")] if sensor else []
        rows += [("window", f"from {window[0]} to {window[1]}")] if window else []
        return [
            *rows,
            *([("classes", ", ".join(classes))] if classes else []),
            ("agent", cls.agent or "one that fits the sensor"),
        ]

    @abstractmethod
    def list_recordings(self) -> list[Recording]:
        """All recordings, in an order that does not depend on where they lie; none of them is read. Raises MissingData."""

    @abstractmethod
    def read_events(self, recording: Recording) -> Events:
        """The events of a ``recording``. Raises EventFileError where it is damaged."""

    def path(self, recording: Recording) -> str:
        """Where a ``recording`` lies, for messages."""
        return recording.store.path(recording.member) if recording.store else f"{self.title} {recording.name}"

    def get_fingerprints(self) -> Iterator[str]:
        """Texts that change when the recordings' files do; nothing is read."""
        files = {(id(r.store), r.member): r for r in self.recordings if r.store is not None}
        for recording in files.values():
            assert recording.store is not None
            yield f"{recording.member} {recording.store.get_fingerprint(recording.member)}"

    def get_reader_fingerprint(self) -> str:
        """A text that changes with what may change the events that are read: the folder, the options, and the class's own code."""
        code = hashlib.sha256(
            inspect.getsource(inspect.getmodule(type(self)) or type(self)).encode()
        ).hexdigest()
        return f"{self.data.resolve()} {self.options.model_dump(exclude={'bins', 'binary'})} {code}"

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the frames made of a recording, whether chosen or taken from the recordings."""
        return {"bins": self.bins, "binary": self.binary}


counted = declare_bins
"""The old name, for one release."""
