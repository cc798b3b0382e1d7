"""The cache: events fall into fixed frames, recordings are read once, and what is kept has bounds."""

import errno
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.classification import cache, samples
from spiky_rl.classification.cache import evict, index_events, load_cached
from spiky_rl.config.registry import UserError
from spiky_rl.datasets._events import LATEST, EventFileError, Events, decode_events
from spiky_rl.datasets.base import Dataset, Recording
from tests.recorded import dataset, encoded

REAL = os.environ.get("SPIKY_RL_DATA")
SENSOR, BINS = (2, 3, 4), 3


class Drawn(Dataset):
    """Random events, the same for the same seed."""

    title, shape, window, classes = "drawn", SENSOR, (0, 300), tuple("0123456789")

    def __init__(self, seed=0, count=6, bins=BINS, binary=False, events=50, bad=()):
        self.seed, self.count, self.events, self.bad, self.reads = seed, count, events, bad, 0
        super().__init__(Dataset.Options(bins=bins, binary=binary), Path("nowhere"))

    def list_recordings(self):
        return [Recording(f"r{i}", i % 10, "train", row=i) for i in range(self.count)]

    def get_fingerprints(self):
        yield repr((self.seed, self.events, self.bad))

    def read_events(self, recording):
        self.reads += 1
        if recording.row in self.bad:
            raise EventFileError(f"{recording.name}: damaged")
        g = np.random.default_rng([self.seed, recording.row])
        x, y, p, t = (g.integers(high, size=self.events) for high in (4, 3, 2, 299))
        return Events(x, y, p, t)


class OwnFile(Dataset):
    """Recordings of one event at a time in one file, which the class reads itself."""

    title, shape, window, classes = "own file", SENSOR, (0, 300), ("a", "b")

    def __init__(self, data, first_label=0):
        self.first_label = first_label
        super().__init__(Dataset.Options(bins=BINS), data)

    def list_recordings(self):
        self.times = np.load(self.data if self.data.is_file() else self.data / "sensor" / "times.npy")
        return [Recording(f"r{i}", self.first_label + i % 2, "train", row=i) for i in range(len(self.times))]

    def read_events(self, recording):
        return Events(*np.array([[0], [0], [0], [self.times[recording.row]]]))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    return tmp_path / "frames"


def frames(events, **options):
    """Flat frames of events, counted."""
    found = Drawn(**options)
    place = index_events(events, found)
    return np.bincount(place, minlength=found.bins * 24).reshape(found.bins, *SENSOR)


def test_an_event_counts_in_its_frame_channel_row_and_column_and_outside_the_window_nowhere():
    events = Events(
        *np.array(
            [(1, 2, 0, 0), (1, 2, 0, 99), (3, 0, 1, 100), (0, 0, 1, 299), (0, 0, 1, 300), (0, 0, 0, -1)]
        ).T
    )
    found = frames(events)
    assert {tuple(i): int(found[tuple(i)]) for i in np.argwhere(found)} == {
        (0, 0, 2, 1): 2,
        (1, 1, 0, 3): 1,
        (2, 1, 0, 0): 1,
    }


def test_a_window_that_frames_do_not_divide_is_used_to_its_end():
    events = Events(*np.array([(0, 0, 0, 0), (0, 0, 0, 149), (0, 0, 0, 299)]).T)
    assert frames(events, bins=7).sum((1, 2, 3)).tolist() == [1, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("is_file", [False, True])
def test_recordings_of_a_file_that_the_class_reads_itself_are_read_anew_if_the_file_changes(
    is_file, tmp_path
):
    path = tmp_path / "data" / "sensor" / "times.npy"
    path.parent.mkdir(parents=True)

    def write_and_load(times):
        np.save(path, times)
        os.utime(path, ns=(times[0], times[0]))
        found = OwnFile(path if is_file else tmp_path / "data")
        return load_cached(found, found.recordings).event_indices.tolist()

    assert write_and_load([0, 100]) == [0, 24]
    assert write_and_load([200, 100]) == [48, 24]


def test_a_label_outside_the_classes_is_refused_with_its_recording(tmp_path):
    np.save(tmp_path / "times.npy", [0, 100])
    with pytest.raises(EventFileError, match="own file r1: label 2 given; allowed: 0 to 1"):
        OwnFile(tmp_path / "times.npy", first_label=1)


def test_an_event_long_after_the_window_counts_in_no_frame():
    found = Drawn()
    found.window, found.bins = (0, 4096), 2048
    events = Events(*np.array([(1, 2, 0, 0), (1, 2, 0, LATEST)], np.int64).T)  # 2048 x LATEST is 2^64
    assert index_events(events, found).tolist() == [9]


def test_counting_equals_a_loop_over_events():
    recordings = Drawn(1)
    held = samples.load_samples("drawn", recordings, recordings.recordings)
    expected = np.zeros((6, BINS, *SENSOR))
    for i, recording in enumerate(recordings.recordings):
        events = recordings.read_events(recording)
        for x, y, p, t in zip(events.x, events.y, events.p, events.t, strict=True):
            expected[i, t // 100, p, y, x] += 1
    assert (held.frames(np.arange(6)).numpy() == expected).all()
    assert (held.frames(np.array([4, 1])).numpy() == expected[[4, 1]]).all()
    binary = samples.load_samples("drawn", Drawn(1, binary=True), recordings.recordings)
    assert (binary.frames(np.arange(6)).numpy() == (expected > 0)).all()
    cut = Drawn(1)
    cut.window = (0, 297)
    shorter = samples.load_samples("drawn", cut, cut.recordings)
    assert len({held.digest, binary.digest, shorter.digest}) == 3


def test_frames_of_0_and_1_are_0_and_1_whatever_the_value_of_an_event(monkeypatch):
    monkeypatch.setattr(Drawn, "scale", 1 / 16)
    for binary, values in ((True, {0.0, 1.0}), (False, {0.0, 1 / 16, 2 / 16})):
        recordings = Drawn(1, binary=binary)
        held = samples.load_samples("drawn", recordings, recordings.recordings)
        assert values <= {*held.frames(np.arange(6)).unique().tolist()}
        assert not binary or held.frames(np.arange(6)).unique().tolist() == [0.0, 1.0]


def test_recordings_are_read_once_and_anew_for_others_or_for_other_frames(own_cache):
    first = Drawn(0, count=40)
    one = load_cached(first, first.recordings)
    assert first.reads == 40 + cache.MAX_MEASURED
    warm = Drawn(0, count=40)
    again = load_cached(warm, warm.recordings)
    assert (
        warm.reads == 0
        and (one.event_indices == again.event_indices).all()
        and (one.digests == again.digests).all()
    )
    other, finer = Drawn(1, count=40), Drawn(0, count=40, bins=5)
    assert (load_cached(other, other.recordings).digests != one.digests).any()
    assert (load_cached(finer, finer.recordings).digests == one.digests).all(), "the same recordings"
    assert len(list(own_cache.glob("*.events"))) == 3


def test_a_cache_that_may_only_be_read_is_read(monkeypatch):
    first, again = Drawn(0), Drawn(0)
    one = load_cached(first, first.recordings)

    def refuse(path, *_):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    assert (load_cached(again, again.recordings).event_indices == one.event_indices).all()
    assert again.reads == 0


def test_what_only_reading_depends_on_makes_another_entry(tmp_path):
    for name in ("one", "other"):
        for label, byte in (("a", 3), ("b", 5)) if name == "one" else (("a", 5), ("b", 3)):
            file = tmp_path / name / label / "1.bin"
            file.parent.mkdir(parents=True)
            file.write_bytes(encoded([(byte, 1, 0, t) for t in range(9)]))
            os.utime(file, (0, 0))
    given = {"sensor": [8, 8], "channels": 2, "window": [0, 9], "bins": 3}
    held = [dataset("custom", tmp_path / name, **given) for name in ("one", "other")]
    one, other = (load_cached(found, found.recordings).digests.tolist() for found in held)
    assert one == other[::-1] != other, "files of equal names, sizes and times in another folder"
    (tmp_path / "one" / "a" / "2.csv").write_text("t,x,y,p\n0.001,1,1,0\n")
    coarse, fine = (
        dataset("custom", tmp_path / "one", **{**given, "window": [0, 2000]}, unit=u) for u in ("s", "ms")
    )
    places = [load_cached(found, found.recordings).event_indices.tolist() for found in (coarse, fine)]
    assert places[0] != places[1], "another unit of time"


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.int32])
def test_times_of_few_bits_fall_into_the_same_frames(kind):
    t = np.arange(0, 250, 25)
    events = Events(t % 4, t % 3, t % 2, t)
    few = Events(*(values.astype(kind) for values in (events.x, events.y, events.p, events.t)))
    assert (frames(few, bins=300) == frames(events, bins=300)).all()


def test_a_file_that_a_dataset_does_not_find_is_no_fault_of_the_cache(tmp_path):
    found = Drawn(0)
    found.read_events = lambda _: (tmp_path / "nothing.bin").read_bytes()
    with pytest.raises(EventFileError, match="drawn r0: cannot be read: No such file"):
        load_cached(found, found.recordings)


def test_recordings_are_read_once_for_a_training_and_its_later_uses(tmp_path, own_cache):
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.bin").write_bytes(encoded([(3, 1, 0, t) for t in range(9)]))
    first = dataset("custom", tmp_path / "data", bins=3)
    later = dataset("custom", tmp_path / "data", **first.settings(), others="unlabelled")
    for found in (first, later):
        load_cached(found, found.recordings)
    assert len(list(own_cache.glob("*.events"))) == 1


def test_what_is_kept_takes_four_bytes_an_event_however_many_frames(own_cache):
    for bins in (3, 300):
        found = Drawn(0, bins=bins)
        load_cached(found, found.recordings)
    assert [path.stat().st_size for path in own_cache.glob("*.events")] == [4 * 6 * 50] * 2


def test_a_recording_that_is_bad_ends_in_its_name_or_is_skipped_and_named(own_cache, caplog):
    found = Drawn(0, bad=(2, 3))
    with pytest.raises(EventFileError, match="r2: damaged; --skip_bad skips such recordings"):
        load_cached(found, found.recordings)
    assert not list(own_cache.iterdir())
    held = samples.load_samples("drawn", found, found.recordings, skip_bad=True)
    assert held.skipped == ("r2: damaged", "r3: damaged") and held.names == ["r0", "r1", "r4", "r5"]
    assert held.labels.tolist() == [0, 1, 4, 5]
    assert "skipped 2 of 6 recordings" in caplog.text and "r3: damaged" in caplog.text
    with pytest.raises(EventFileError, match="r2: damaged"):
        load_cached(found, found.recordings)  # from the cache too
    nothing = Drawn(0, bad=tuple(range(6)))
    with pytest.raises(EventFileError, match="r0: damaged; no recording is left"):
        load_cached(nothing, nothing.recordings, skip_bad=True)


def test_a_recording_without_events_in_the_window_is_bad():
    found = Drawn(0)
    found.window = (500, 900)
    with pytest.raises(
        EventFileError, match="drawn r0: all events are from .*, none in the window from 500 to 900"
    ):
        load_cached(found, found.recordings)


def test_damaged_files_of_the_cache_are_made_anew(own_cache):
    found = Drawn(0)
    whole = np.array(load_cached(found, found.recordings).event_indices)
    for pattern in ("*.events", "*.npz"):
        for left in (0, 20, -1):
            (path,) = own_cache.glob(pattern)
            with path.open("r+b") as file:
                file.truncate(left if left >= 0 else path.stat().st_size - 1)
            assert np.array_equal(load_cached(found, found.recordings).event_indices, whole)


def test_what_finds_no_room_is_refused_before_it_is_read(tmp_path, monkeypatch):
    few = Drawn(0)
    many = Drawn(0, count=10**5)
    load_cached(few, few.recordings)
    read = few.reads
    monkeypatch.setenv("SPIKY_RL_CACHE_GB", "0.001")
    with pytest.raises(
        UserError,
        match="100000 recordings of drawn need about 0.02 GB, but the cache may take 0.001 GB; .* --recordings",
    ):
        load_cached(many, many.recordings)
    assert many.reads == cache.MAX_MEASURED
    assert (
        load_cached(few, few.recordings).event_indices.size == 300 and few.reads == read
    ), "what is kept stays"
    for value in ("much", "0", "nan"):
        monkeypatch.setenv("SPIKY_RL_CACHE_GB", value)
        with pytest.raises(UserError, match=f"SPIKY_RL_CACHE_GB: '{value}' given"):
            load_cached(many, many.recordings)
    monkeypatch.delenv("SPIKY_RL_CACHE_GB")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/cache")):
        monkeypatch.setenv("SPIKY_RL_CACHE", str(place))
        with pytest.raises(UserError, match="cannot write recordings to .* SPIKY_RL_CACHE"):
            load_cached(few, few.recordings)


def test_what_was_not_used_for_longest_makes_room(own_cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    own_cache.mkdir()
    measured = own_cache / "own-0.json"
    measured.write_text("[1, 2, 3, 4]")
    os.utime(measured, (0, 0))
    for seed in range(3):
        found = Drawn(seed)
        load_cached(found, found.recordings)
        for path in own_cache.iterdir():
            os.utime(path, (path.stat().st_mtime - 100,) * 2)
    load_cached(Drawn(0), Drawn(0).recordings)  # used again: now the youngest
    sizes = sum(path.stat().st_size for path in own_cache.iterdir())
    evict(own_cache, sizes - 1)
    evict(own_cache, 0.4 * sizes)
    warm, cold = Drawn(0), Drawn(1)
    for found in (warm, cold):
        assert load_cached(found, found.recordings).event_indices.size == 300
    assert warm.reads == 0 < cold.reads
    assert "removed, to make room in the cache" in caplog.text
    evict(own_cache, 0)
    assert list(own_cache.iterdir()) == [measured], "what all recordings were read for takes no room"


def test_equal_recordings_are_known_by_their_events_whatever_file_they_come_from(tmp_path):
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b" / "x").mkdir(parents=True)
    events = [(1, 2, 1, 30), (3, 0, 0, 70)]
    (tmp_path / "a" / "x" / "1.bin").write_bytes(encoded(events))
    (tmp_path / "b" / "x" / "1.csv").write_text("".join(f"{t},{x},{y},{p}\n" for x, y, p, t in events))
    digests = []
    for name in "ab":
        found = dataset("custom", tmp_path / name)
        digests += load_cached(found, found.recordings).digests.tolist()
    assert digests[0] == digests[1]


@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "nmnist_00001.bin").is_file(),
    reason="real recordings: SPIKY_RL_DATA names no folder with nmnist_00001.bin",
)
def test_a_real_recording_has_the_frames_that_tonic_counts():
    # 300 comparisons (100 recordings, 10, 30 and 300 bins) with tonic 1.7.0's to_frame_numpy(start_time=0, end_time=300000)
    # were equal, type and all; this is one of them
    path = Path(REAL or "") / "nmnist_00001.bin"
    real = dataset("nmnist", Path(REAL or ""))
    place = index_events(decode_events(path.read_bytes(), str(path)), real)
    found = np.bincount(place, minlength=23120).reshape(10, 2, 34, 34).astype(np.int16)
    assert found.sum((1, 2, 3)).tolist() == [357, 1146, 374, 50, 708, 854, 113, 226, 605, 244]
    assert (int(found[:, 1].sum()), int(found.max())) == (2327, 8)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "465b3cd37b142b04"
