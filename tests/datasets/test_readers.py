"""Readers: bytes become events, the dataset's layouts are found, and what is damaged is named with its place."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from spiky_rl.config.registry import UserError
from spiky_rl.datasets import nmnist, samples, stmnist
from spiky_rl.datasets.events import EventFileError, MissingData

REAL = os.environ.get("SPIKY_RL_DATA")
real = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "nmnist_00001.bin").is_file(),
    reason="real recordings: SPIKY_RL_DATA names no folder with nmnist_00001.bin",
)
EVENTS = [(3, 4, 1, 70_000), (33, 33, 0, 70_001), (0, 0, 1, (1 << 23) - 1)]


def encoded(events):
    """N-MNIST's bytes of (x, y, p, t)."""
    return b"".join(bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, p, t in events)


def listed(events):
    columns = (events.x, events.y, events.p, events.t)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_five_bytes_are_an_event():
    assert listed(nmnist.decode(encoded(EVENTS), Path("a.bin"))) == EVENTS


def test_y_240_is_no_event_and_moves_all_later_times():
    marked = encoded(EVENTS[:1]) + encoded([(0, 240, 0, 0)]) + encoded(EVENTS[1:])
    found = listed(nmnist.decode(marked, Path("a.bin")))
    assert found == EVENTS[:1] + [(x, y, p, t + 8192) for x, y, p, t in EVENTS[1:]]


def test_an_empty_recording_has_no_events():
    assert len(nmnist.decode(b"", Path("a.bin"))) == 0


def test_a_truncated_recording_names_file_and_byte():
    with pytest.raises(EventFileError, match=r"a\.bin: byte 10: the last event has 3 of 5 bytes"):
        nmnist.decode(encoded(EVENTS)[:-2], Path("a.bin"))


@pytest.mark.parametrize("place", [(34, 0), (0, 34), (0, 255)])
def test_an_event_outside_the_sensor_names_file_byte_and_place(place):
    data = encoded([EVENTS[0], (0, 240, 0, 0), (*place, 1, 5)])
    with pytest.raises(
        EventFileError, match=rf"a\.bin: byte 10: .* column {place[0]}, row {place[1]} of .* 34 x 34"
    ):
        nmnist.decode(data, Path("a.bin"))


@pytest.fixture
def layout(tmp_path):
    """Two recordings of each class to learn from, one to test on."""
    for part, count in (("Train", 2), ("Test", 1)):
        for label in range(10):
            folder = tmp_path / "nmnist" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                events = [(label, i, 1, 1000 * (k + 1)) for k in range(label + 1)]
                (folder / f"{label * 2 + i + 1:05}.bin").write_bytes(encoded(events))
    return tmp_path


def test_the_datasets_own_layout_gives_labels_and_the_official_split(layout):
    found = nmnist.find(layout)
    assert found.labels.tolist() == [*np.repeat(range(10), 2), *range(10)]
    assert found.of_test.tolist() == [False] * 20 + [True] * 10
    assert listed(found.read(5))[0] == (2, 1, 1, 1000)


def test_packed_recordings_are_those_of_the_files(layout):
    files = nmnist.find(layout)
    events = [files.read(i) for i in range(len(files))]
    lengths = [len(e) for e in events]
    np.savez(
        layout / "nmnist_packed.npz",
        addr=np.concatenate([(e.y * 34 + e.x) * 2 + e.p for e in events]).astype(np.uint16),
        dt=np.concatenate([np.diff(e.t, prepend=0) for e in events]).astype(np.uint16),
        off=np.cumsum([0, *lengths]),
        label=files.labels.astype(np.uint8),
    )
    packed = nmnist.NMnistPacked(layout / "nmnist_packed.npz")
    assert packed.labels.tolist() == files.labels.tolist()
    assert [listed(packed.read(i)) for i in range(len(packed))] == [listed(e) for e in events]


BAD_ARRAYS = {
    "no divider": ({"off": [0, 3]}, "off does not divide addr and dt"),
    "outside": ({"addr": [0, 2312]}, r"addr\[1\]: 2312 is no pixel"),
    "absent": ({"dt": None}, "no packed recordings, or damaged ones"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_packed_recordings_are_refused(tmp_path, case):
    change, message = BAD_ARRAYS[case]
    arrays = {"addr": [0, 1], "dt": [5, 5], "off": [0, 2], "label": [1], **change}
    np.savez(
        tmp_path / "p.npz", **{key: np.array(value) for key, value in arrays.items() if value is not None}
    )
    with pytest.raises(EventFileError, match=rf"p\.npz: {message}"):
        nmnist.NMnistPacked(tmp_path / "p.npz")


def test_a_cut_packed_file_is_refused(tmp_path):
    (tmp_path / "p.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(EventFileError, match=r"p\.npz: no packed recordings, or damaged ones"):
        nmnist.NMnistPacked(tmp_path / "p.npz")


@real
def test_the_real_recording_in_its_own_bytes_is_the_packed_one():
    folder = Path(REAL or "")
    single = nmnist.decode((folder / "nmnist_00001.bin").read_bytes(), folder / "nmnist_00001.bin")
    assert listed(single) == listed(nmnist.find(folder).read(0))
    assert len(single) == 4681 and (np.diff(single.t) >= 0).all()


def matlab(path, train, **more):
    savemat(path, {"spiketrain": train, **more})
    return path


def taxels(*events):
    """A spiketrain of (taxel, sign, seconds)."""
    train = np.zeros((101, len(events)))
    for column, (taxel, sign, seconds) in enumerate(events):
        train[taxel, column], train[100, column] = sign, seconds
    return train


def test_a_spiketrain_becomes_events(tmp_path):
    path = matlab(tmp_path / "a.mat", taxels((37, 1, 0.25), (40, -1, 0.196999), (99, 1, 1.5)))
    assert listed(stmnist.decode(path)) == [(7, 3, 1, 250_000), (0, 4, 0, 196_999), (9, 9, 1, 1_500_000)]


def test_a_truncated_spiketrain_names_file_and_byte(tmp_path):
    path = matlab(tmp_path / "a.mat", taxels(*[(5, 1, 0.1)] * 40))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EventFileError, match=r"a\.mat: byte 128: .* the file is truncated"):
        stmnist.decode(path)
    path.write_bytes(b"short")
    with pytest.raises(EventFileError, match=r"a\.mat: byte 5: the file ends within its header"):
        stmnist.decode(path)


def test_an_element_after_a_whole_one_may_be_the_truncated_one(tmp_path):
    path = matlab(tmp_path / "a.mat", taxels((5, 1, 0.1)))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(struct.pack("<2I", 14, 64) + bytes(10))
    with pytest.raises(
        EventFileError, match=rf"a\.mat: byte {size}: an element that ends at byte {size + 72}"
    ):
        stmnist.decode(path)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (np.zeros((100, 3)), r"spiketrain is \(100, 3\); it must be \[101, events\]"),
        (taxels((5, 2, 0.1)), "must hold -1, 0 and 1"),
        (taxels((5, 1, np.nan)), "times of 0 or more"),
        (taxels((5, 1, -0.1)), "times of 0 or more"),
    ],
)
def test_what_is_no_spiketrain_is_refused(tmp_path, train, words):
    with pytest.raises(EventFileError, match=words):
        stmnist.decode(matlab(tmp_path / "a.mat", train))
    path = tmp_path / "b.mat"
    savemat(path, {"other": 1.0})
    with pytest.raises(EventFileError, match=r"b\.mat: spiketrain is absent"):
        stmnist.decode(path)


def test_the_tactile_layout_gives_labels_and_leaves_tables_out(tmp_path):
    for label in range(10):
        folder = tmp_path / "stmnist" / "data" / str(label)
        folder.mkdir(parents=True)
        matlab(folder / "1.mat", taxels((label, 1, 0.1)))
    matlab(tmp_path / "stmnist" / "data" / "0" / "LUT.mat", taxels((0, 1, 0.1)))
    found = stmnist.find(tmp_path)
    assert found.labels.tolist() == list(range(10))
    assert listed(found.read(7)) == [(7, 0, 1, 100_000)]


@real
def test_the_real_tactile_recording_has_its_events():
    found = stmnist.decode(Path(REAL or "") / "sample_stmnist.mat")
    assert (len(found), int(found.p.sum())) == (2346, 1601)
    assert len(np.unique(found.y * 10 + found.x)) == 31
    assert (round(found.t.min() / 1000), round(found.t.max() / 1000)) == (197, 896)


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(
        MissingData, match="--download .* --data DIR .* --synthetic .* By hand: .*train.zip and test.zip"
    ):
        samples.load("nmnist", tmp_path)
    with pytest.raises(MissingData, match="a form to be filled in: get .*scholarbank.*stmnist'"):
        samples.load("stmnist", tmp_path)


def test_the_data_folder_is_the_given_one_then_the_environments_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    monkeypatch.delenv("SPIKY_RL_DATA", raising=False)
    assert samples.data_folder() == tmp_path / "datasets"
    monkeypatch.setenv("SPIKY_RL_DATA", "/elsewhere")
    assert samples.data_folder() == Path("/elsewhere")
    assert samples.data_folder(tmp_path) == tmp_path


def test_a_wrong_dataset_or_one_that_an_option_does_not_go_with_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'nmist'; known: .*did you mean 'nmnist'"):
        samples.load("nmist", tmp_path)
    with pytest.raises(UserError, match="--synthetic: goes with nmnist only, not with digits"):
        samples.load("digits", tmp_path, synthetic=5)
