"""Frames: events fall into fixed bins, and what is kept on disk is what would be counted anew."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.config.registry import UserError
from spiky_rl.datasets import nmnist
from spiky_rl.datasets.events import Events, Recordings
from spiky_rl.datasets.frames import Binning, digest, frames
from spiky_rl.datasets.split import official, stratified

REAL = os.environ.get("SPIKY_RL_DATA")
SENSOR = (3, 4)
BINNING = Binning(3, 0, 300, SENSOR)


class Drawn(Recordings):
    """Random events, the same for the same seed."""

    name, sensor, classes, window = "drawn", SENSOR, 10, (0, 300)

    def __init__(self, seed, count=6):
        self.seed, self.labels, self.of_test = seed, np.arange(count) % 10, np.zeros(count, bool)
        self.reads = 0

    def read(self, index):
        self.reads += 1
        g = np.random.default_rng([self.seed, index])
        x, y, p, t = (g.integers(high, size=50) for high in (4, 3, 2, 400))
        return Events(x, y, p, t)

    def contents(self):
        yield repr((self.seed, self.labels.tolist())).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    return tmp_path


def test_an_event_counts_in_its_bin_polarity_row_and_column_and_outside_the_window_nowhere():
    events = Events(
        *np.array([(1, 2, 0, 0), (1, 2, 0, 99), (3, 0, 1, 100), (0, 0, 1, 299), (0, 0, 1, 300)]).T
    )
    found = BINNING(events)
    assert found.shape == BINNING.shape == (3, 2, 3, 4)
    assert {tuple(i): int(found[tuple(i)]) for i in np.argwhere(found)} == {
        (0, 0, 2, 1): 2,
        (1, 1, 0, 3): 1,
        (2, 1, 0, 0): 1,
    }
    assert Binning(3, 0, 300, SENSOR, binary=True)(events).tolist() == (found > 0).astype(int).tolist()
    assert Binning(3, 100, 400, SENSOR)(events).sum() == 3, "a window that begins later"


def test_a_window_that_bins_do_not_divide_leaves_its_rest_out():
    events = Events(*np.array([(0, 0, 0, 6), (0, 0, 0, 9)]).T)
    assert Binning(3, 0, 10, SENSOR)(events).sum((1, 2, 3)).tolist() == [0, 0, 1]


def test_counting_equals_a_loop_over_events():
    events = Drawn(1).read(0)
    expected = np.zeros(BINNING.shape, int)
    for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
        if t < 300:
            expected[t // 100, p, y, x] += 1
    assert (BINNING(events) == expected).all()


@pytest.mark.parametrize("bins", [0, 301])
def test_bins_that_do_not_fit_are_refused(bins):
    with pytest.raises(UserError, match=f"bins: {bins} do not fit 300 microseconds"):
        Binning(bins, 0, 300, SENSOR)


def test_frames_are_counted_once_and_anew_for_other_data_or_another_transform(cache):
    recordings = Drawn(0)
    first = frames(recordings, BINNING, digest(recordings))
    assert recordings.reads == 6
    again = frames(recordings, BINNING, digest(recordings))
    assert recordings.reads == 6 and (first == again).all()
    assert (first[4] == BINNING(recordings.read(4))).all()
    other = Drawn(1)
    assert digest(other) != digest(recordings)
    assert (frames(other, BINNING, digest(other)) != first).any()
    frames(other, Binning(3, 0, 300, SENSOR, binary=True), digest(other))
    assert len(list((cache / "frames").iterdir())) == 3


def test_counting_that_breaks_off_leaves_nothing_behind(cache):
    class Broken(Drawn):
        """Fails at its fourth recording."""

        def read(self, index):
            if index == 3:
                raise UserError("damaged")
            return super().read(index)

    with pytest.raises(UserError, match="damaged"):
        frames(Broken(0), BINNING, "x")
    assert not list((cache / "frames").iterdir())


def test_a_hold_out_has_of_every_class_its_part_and_shares_nothing_with_the_rest():
    labels = np.repeat(np.arange(4), [40, 30, 20, 10])
    split = stratified(labels, 21, seed=3)
    assert len(split.test) == 21 and len(split.train) == 79
    assert sorted([*split.train, *split.test]) == list(range(100))
    counts = np.bincount(labels[split.test])
    assert (np.abs(counts - 0.21 * np.array([40, 30, 20, 10])) < 1.0).all()


def test_a_seed_draws_the_same_hold_out_and_another_another():
    labels = np.arange(100) % 10
    assert stratified(labels, 20, 0).digest == stratified(labels, 20, 0).digest
    assert stratified(labels, 20, 0).digest != stratified(labels, 20, 1).digest


def test_what_is_apart_is_neither_learned_from_nor_held_out():
    labels, apart = np.arange(100) % 10, np.arange(100) >= 80
    split = stratified(labels, 20, 0, apart)
    assert sorted([*split.train, *split.test]) == list(range(80))
    assert (np.bincount(labels[split.test]) == 2).all()


def test_the_official_split_is_the_datasets():
    split = official(np.array([False, True, False]))
    assert (split.train.tolist(), split.test.tolist()) == ([0, 2], [1])


@pytest.mark.parametrize("count", [0, 10, 11])
def test_a_hold_out_of_nothing_or_all_is_refused(count):
    with pytest.raises(UserError, match=f"--hold_out {count}: must be between 1 and 9"):
        stratified(np.arange(10), count, 0)


@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "nmnist_00001.bin").is_file(),
    reason="real recordings: SPIKY_RL_DATA names no folder with nmnist_00001.bin",
)
def test_a_real_recording_has_the_frames_that_tonic_counts():
    # 300 comparisons (100 recordings, 10, 30 and 300 bins) with tonic 1.7.0's to_frame_numpy(start_time=0, end_time=300000)
    # were equal, type and all; this is one of them
    path = Path(REAL or "") / "nmnist_00001.bin"
    found = Binning(10, 0, 300_000, (34, 34))(nmnist.decode(path.read_bytes(), path))
    assert found.sum((1, 2, 3)).tolist() == [357, 1146, 374, 50, 708, 854, 113, 226, 605, 244]
    assert (found.dtype, int(found[:, 1].sum()), int(found.max())) == (np.int16, 2327, 8)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "465b3cd37b142b04"
