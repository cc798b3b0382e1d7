"""STEMNIST: 7,700 characters that 34 people wrote on 16 x 16 taxels, as spikes of a simulated sensing circuit.

The pressure was measured, but the spikes come from the authors' simulation of a sensing circuit, so results must be called
"STEMNIST, simulated spikes". ``spike/{train,val,test}/spike.npy`` is [recordings, 240 steps, 16, 16] of 0 and 1; ``manifest.csv`` beside
it has the label and the index in spike.npy of each recording. The official split is 5,390, 1,155 and 1,155; the classes are 26 letters and the digits 1 to 9.

Source: Four-Q/STEMNIST_Classify on GitHub. It names no licence, so this package ships none of it.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Literal, override

import numpy as np

from spiky_rl.config.options import option, shorten
from spiky_rl.datasets._events import EventFileError, Events, MissingData, decode_tensor
from spiky_rl.datasets._store import RecordingStore, TensorFile, find_stores, format_unpack_hint
from spiky_rl.datasets.base import Dataset, Recording, declare_bins

SIDE, STEPS = 16, 240
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "123456789"
CANDIDATES = ("stemnist", "STEMNIST", "stemnist/stemnist_spikes.zip", "stemnist_spikes.zip", "spike")
"""Folders and archives below the data folder that may hold the spikes."""
PARTS = {"train": "train", "val": "validation", "test": "test"}


class Stemnist(Dataset):
    """The published spikes, packed or unpacked."""

    title = "STEMNIST, simulated spikes"
    licence = "none given: do not redistribute"
    source = "https://github.com/Four-Q/STEMNIST_Classify"
    shape = (1, SIDE, SIDE)
    window = (0, STEPS)
    times_are_steps = True

    class Options(Dataset.Options):
        bins: int = declare_bins(24)
        characters: Literal["all", "digits", "letters"] = option(
            "all", "characters to use: all 35, the nine digits, or the letters"
        )

    # defaults of classify.py, see Dataset
    agent = "lif_conv_small_classifier"
    epochs, batch_size = 60, 25
    shift, rotation = 1.0, 10.0

    def __init__(self, options: Options, data: Path) -> None:
        self.characters = options.characters
        self.files: dict[str, TensorFile] = {}
        """Open spike files by their names."""
        self.classes = tuple({"all": LETTERS + DIGITS, "digits": DIGITS, "letters": LETTERS}[self.characters])
        super().__init__(options, data)

    def list_recordings(self) -> list[Recording]:
        for store in find_stores(self.data, CANDIDATES):
            recordings = [r for name in store.list_names() for r in self._read_manifest(store, name)]
            if recordings:
                return recordings
        raise MissingData(
            f"STEMNIST is not in {str(self.data)!r}: get its spikes from {self.source} and put them there as 'stemnist_spikes.zip',"
            " or unpacked as 'stemnist/spike/{train,val,test}/{spike.npy,manifest.csv}'; --data DIR if they are elsewhere"
            f"{format_unpack_hint(*(self.data / name for name in (*CANDIDATES, ".")), dataset='stemnist')}"
        )

    def _read_manifest(self, store: RecordingStore, name: str) -> list[Recording]:
        """Return the recordings in a manifest; none if ``name`` is not a manifest."""
        match = re.search(r"(?:^|/)(train|val|test)/manifest\.csv$", name)
        if match is None:
            return []
        try:
            rows = list(csv.DictReader(io.StringIO(store.read(name).decode(errors="replace"))))
        except csv.Error as error:
            raise EventFileError(f"{store.path(name)}: not a list of recordings: {error}") from None
        if not rows or not {"row_index", "label", "sample_id"} <= rows[0].keys():
            raise EventFileError(
                f"{store.path(name)}: expected columns row_index, label and sample_id, and a row for each recording"
            )
        member = name.replace("manifest.csv", "spike.npy")
        if unknown := [row["label"] for row in rows if row["label"] not in tuple(LETTERS + DIGITS)]:
            raise EventFileError(
                f"{store.path(name)}: label {unknown[0]!r} given; allowed: {LETTERS}{DIGITS}"
            )
        indices = [row["row_index"] for row in rows]
        if invalid := [index for index in indices if not re.fullmatch("[0-9]{1,9}", str(index))]:
            raise EventFileError(
                f"{store.path(name)}: row_index {shorten(invalid[0])} given; allowed: 0, 1, 2, ..."
            )
        return [
            Recording(
                f"{match[1]}/{row['sample_id']}",
                self.classes.index(row["label"]),
                PARTS[match[1]],
                store=store,
                member=member,
                row=int(row["row_index"]),
            )
            for row in rows
            if row["label"] in self.classes
        ]

    @override
    def read_events(self, recording: Recording) -> Events:
        assert recording.store is not None
        name = recording.member
        if name not in self.files:
            self.files[name] = TensorFile(recording.store, name)
        path = f"{self.path(recording)}: row {recording.row}"
        counts = self.files[name][recording.row]
        if counts.shape != (STEPS, SIDE, SIDE):
            raise EventFileError(f"{path}: is {list(counts.shape)}; expected [{STEPS}, {SIDE}, {SIDE}]")
        return decode_tensor(counts[:, np.newaxis], path)
