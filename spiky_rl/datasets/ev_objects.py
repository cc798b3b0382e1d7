"""Ev-Objects: 36 household objects, each grasped 20 times by a hand with NeuTouch event-based fingertips of 39 taxels.

``Ev-Objects/{train,test}/sample_I_label_C.npy`` is [39 taxels, 2 polarities, 250 steps] of 0 and 1: 576 recordings for training, 144 for
testing. The taxels are not on a grid, so they form one row of 39, for networks with ``connection: linear``.

Source: Gu, Sng, Taunyazov & Soh (2020), TactileSGNet, with NeuTouch by Taunyazov et al. (2020). It names no licence, so this package
ships none of it.
"""

from __future__ import annotations

from typing import override

import numpy as np

from spiky_rl.datasets._arrays import read_array
from spiky_rl.datasets._events import DAMAGE, EventFileError, Events, MissingData, decode_tensor
from spiky_rl.datasets._store import find_stores, format_unpack_hint
from spiky_rl.datasets.base import Dataset, Recording, declare_bins

TAXELS, POLARITIES, STEPS, OBJECTS = 39, 2, 250, 36
FOLDERS = ("ev_objects", "Ev-Objects", "ev_objects.zip", "Ev-Objects.zip", "ev_objects/ev_objects.zip")


class EvObjects(Dataset):
    """The published tensors, packed or unpacked."""

    title = "Ev-Objects"
    licence = "none given: do not redistribute"
    source = "https://github.com/clear-nus/TactileSGNet"
    shape = (POLARITIES, 1, TAXELS)
    window = (0, STEPS)
    times_are_steps = True
    classes = tuple(str(label) for label in range(OBJECTS))

    class Options(Dataset.Options):
        bins: int = declare_bins(50)

    agent = "lif_linear_classifier"
    epochs, batch_size = 150, 20

    def list_recordings(self) -> list[Recording]:
        for store in find_stores(self.data, FOLDERS):
            matches = store.match_names(r"(?:^|/)((train|test)/sample_\d+_label_(\d+))\.npy$")
            recordings = [Recording(m[1], int(m[3]), m[2], store, name) for m, name in matches]
            if recordings:
                return recordings
        raise MissingData(
            f"Ev-Objects is not in {str(self.data)!r}: get it from {self.source} and put it there as 'ev_objects.zip', or unpacked as"
            " 'Ev-Objects/{train,test}/sample_I_label_C.npy'; --data DIR if it is elsewhere"
            f"{format_unpack_hint(*(self.data / name for name in (*FOLDERS, ".")), dataset='ev_objects')}"
        )

    @override
    def read_events(self, recording: Recording) -> Events:
        assert recording.store is not None
        path, data = self.path(recording), recording.store.read(recording.member)
        try:
            counts = read_array(data)
        except DAMAGE as error:
            raise EventFileError(f"{path}: not a recording, or damaged: {error}") from None
        if counts.shape != (TAXELS, POLARITIES, STEPS):
            raise EventFileError(
                f"{path}: is {list(counts.shape)}; expected [{TAXELS}, {POLARITIES}, {STEPS}]"
            )
        return decode_tensor(counts.transpose(2, 1, 0)[:, :, np.newaxis], path)
