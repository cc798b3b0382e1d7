"""On recordings that nobody tuned for, the defaults are as good as a perceptron on all frames, or within two standard errors."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.config.safe_loading import parse_json, read_file
from spiky_rl.datasets._events import MissingData
from tests.recorded import dataset

REAL = os.environ.get("SPIKY_RL_DATA", "")
FIRST, LEARNED = 16, 12
"""The first class of 20 that no default was chosen on; recordings of each that are learned from."""


def write_tensors(folder, objects):
    """Write Ev-Objects' last 20 classes as somebody's own tensors: 240 recordings to learn from, 160 to test on."""
    counts = dict.fromkeys(range(FIRST, 36), 0)
    for recording in sorted(objects.recordings, key=lambda r: (r.part != "train", r.name)):
        if recording.label < FIRST:
            continue
        part = "train" if counts[recording.label] < LEARNED else "test"
        counts[recording.label] += 1
        events = objects.read_events(recording)
        frames = np.zeros((250, 2, 1, 39), np.uint8)
        np.add.at(frames, (events.t, events.p, events.y, events.x), 1)
        path = folder / part / str(recording.label) / f"{counts[recording.label]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, frames)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not REAL, reason="real recordings: SPIKY_RL_DATA is not set")
def test_the_defaults_reach_a_perceptron_on_all_frames_of_recordings_that_they_were_not_chosen_on(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    try:
        objects = dataset("ev_objects", Path(REAL))
    except MissingData as error:
        pytest.skip(f"real recordings: {error}")
    write_tensors(tmp_path / "own", objects)
    line = [
        "--dataset",
        "custom",
        "--data",
        tmp_path / "own",
        "--device",
        "cpu",
        "--log_root",
        tmp_path / "logs",
    ]
    assert common.run(classify, [str(word) for word in line]) == 0
    (path,) = (tmp_path / "logs").rglob("result.json")
    result = read_file(path, parse_json)
    share, count = result["ann"]["accuracy"], result["samples_test"]
    assert (result["samples_train"] + result["samples_validation"], count) == (240, 160)
    assert result["accuracy"] >= share - 2.0 * math.sqrt(share * (1.0 - share) / count)
