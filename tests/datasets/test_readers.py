"""Readers: bytes become events, the dataset's layouts are found, and what is damaged is named with its place."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from spiky_rl.classification.samples import get_data_folder
from spiky_rl.config.registry import RegistryError, UserError
from spiky_rl.datasets import stmnist
from spiky_rl.datasets._events import EventFileError, MissingData, check_events, decode_events
from spiky_rl.datasets._store import RecordingStore, format_unpack_hint
from tests.recorded import dataset, encoded, listed

REAL = os.environ.get("SPIKY_RL_DATA")
real = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "nmnist_00001.bin").is_file(),
    reason="real recordings: SPIKY_RL_DATA names no folder with nmnist_00001.bin",
)
EVENTS = [(3, 4, 1, 70_000), (33, 33, 0, 70_001), (0, 0, 1, (1 << 23) - 1)]


def test_five_bytes_are_an_event():
    assert listed(decode_events(encoded(EVENTS), "a.bin")) == EVENTS


def test_y_240_is_no_event_and_moves_all_later_times():
    marked = encoded(EVENTS[:1]) + encoded([(0, 240, 0, 0)]) + encoded(EVENTS[1:])
    found = listed(decode_events(marked, "a.bin"))
    assert found == EVENTS[:1] + [(x, y, p, t + 8192) for x, y, p, t in EVENTS[1:]]


@pytest.mark.parametrize("content", [b"", encoded([(0, 240, 0, 0)])])
def test_a_recording_without_events_is_refused(content):
    with pytest.raises(EventFileError, match=r"a\.bin: (is empty|holds no events)"):
        check_events(decode_events(content, "a.bin"), "a.bin", (2, 34, 34))


def test_a_truncated_recording_names_file_and_byte():
    with pytest.raises(EventFileError, match=r"a\.bin: byte 10: the last event has 3 of 5 bytes"):
        decode_events(encoded(EVENTS)[:-2], "a.bin")


@pytest.mark.parametrize(("place", "what"), [((34, 0), "columns"), ((0, 34), "rows"), ((0, 255), "rows")])
def test_an_event_outside_the_sensor_is_named_with_file_and_place(place, what):
    events = decode_events(encoded([EVENTS[0], (0, 240, 0, 0), (*place, 1, 5)]), "a.bin")
    with pytest.raises(
        EventFileError,
        match=rf"a\.bin: event 1 is at column {place[0]}, row {place[1]}, channel 1; this sensor has {what} from 0 to 33",
    ):
        check_events(events, "a.bin", (2, 34, 34))


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


def zipped(folder):
    """Train and Test as the published archives, in the place of the folders."""
    for part in ("Train", "Test"):
        with zipfile.ZipFile(folder / "nmnist" / f"{part.lower()}.zip", "w") as archive:
            for path in sorted((folder / "nmnist" / part).rglob("*.bin")):
                archive.write(path, path.relative_to(folder / "nmnist"))
                path.unlink()
        for path in sorted((folder / "nmnist" / part).rglob("*"), reverse=True):
            path.rmdir()
        (folder / "nmnist" / part).rmdir()


@pytest.mark.parametrize("packed", [False, True])
def test_the_datasets_own_layout_gives_labels_and_the_official_split_unpacked_or_not(layout, packed):
    if packed:
        zipped(layout)
    found = dataset("nmnist", layout)
    # Test comes behind Train
    assert [r.label for r in found.recordings] == [*np.repeat(range(10), 2), *range(10)]
    assert [r.part for r in found.recordings] == ["train"] * 20 + ["test"] * 10
    assert found.recordings[5].name == "Train/2/00006"
    assert listed(found.read_events(found.recordings[5]))[0] == (2, 1, 1, 1000)


def test_packed_recordings_are_those_of_the_files(layout):
    found = dataset("nmnist", layout)
    rows = [r for r in found.recordings if r.part == "train"]
    events = [found.read_events(r) for r in rows]
    np.savez(
        layout / "nmnist_packed.npz",
        addr=np.concatenate([(e.y * 34 + e.x) * 2 + e.p for e in events]).astype(np.uint16),
        dt=np.concatenate([np.diff(e.t, prepend=0) for e in events]).astype(np.uint16),
        off=np.cumsum([0, *map(len, events)]),
        label=np.array([r.label for r in rows], np.uint8),
    )
    (layout / "nmnist").rename(layout / "elsewhere")
    packed = dataset("nmnist", layout)
    assert [(r.name, r.label, r.part) for r in packed.recordings] == [(r.name, r.label, r.part) for r in rows]
    assert [listed(packed.read_events(r)) for r in packed.recordings] == [listed(e) for e in events]


BAD_ARRAYS = {
    "no divider": ({"off": [0, 3]}, "off does not divide addr and dt"),
    "outside": (
        {"addr": [0, 2312]},
        r"row 0 \(Train/1/00001\): event 1: addr is 2312; it must be between 0 and 2311",
    ),
    "absent": ({"dt": None}, "not packed recordings, or damaged"),
    "ids": ({"id": [1, 2]}, "2 values of id and 1 of label"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_packed_recordings_are_refused(tmp_path, case):
    change, message = BAD_ARRAYS[case]
    arrays = {"addr": [0, 1], "dt": [5, 5], "off": [0, 2], "label": [1], **change}
    np.savez(
        tmp_path / "nmnist_p.npz",
        **{key: np.array(value) for key, value in arrays.items() if value is not None},
    )
    with pytest.raises(UserError, match=rf"nmnist_p\.npz: {message}"):
        found = dataset("nmnist", tmp_path)
        found.read_events(found.recordings[0])


def test_a_cut_packed_file_is_refused(tmp_path):
    (tmp_path / "nmnist_p.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"nmnist_p\.npz: not packed recordings, or damaged"):
        dataset("nmnist", tmp_path)


@real
def test_the_real_recording_in_its_own_bytes_is_the_packed_one():
    folder = Path(REAL or "")
    single = decode_events((folder / "nmnist_00001.bin").read_bytes(), "nmnist_00001.bin")
    packed = dataset("nmnist", folder)
    assert packed.recordings[0].name == "Train/5/00001"
    assert listed(single) == listed(packed.read_events(packed.recordings[0]))
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
    assert listed(stmnist.decode(path.read_bytes(), str(path))) == [
        (7, 3, 1, 250_000),
        (0, 4, 0, 196_999),
        (9, 9, 1, 1_500_000),
    ]


def test_a_truncated_spiketrain_names_file_and_byte(tmp_path):
    path = matlab(tmp_path / "a.mat", taxels(*[(5, 1, 0.1)] * 40))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EventFileError, match=r"a\.mat: byte 128: .* the file is truncated"):
        stmnist.decode(path.read_bytes(), str(path))
    path.write_bytes(b"short")
    with pytest.raises(EventFileError, match=r"a\.mat: byte 5: the file ends within its header"):
        stmnist.decode(path.read_bytes(), str(path))


def test_an_element_after_a_whole_one_may_be_the_truncated_one(tmp_path):
    path = matlab(tmp_path / "a.mat", taxels((5, 1, 0.1)))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(struct.pack("<2I", 14, 64) + bytes(10))
    with pytest.raises(
        EventFileError, match=rf"a\.mat: byte {size}: an element that ends at byte {size + 72}"
    ):
        stmnist.decode(path.read_bytes(), str(path))


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
        stmnist.decode(matlab(tmp_path / "a.mat", train).read_bytes(), "a.mat")
    path = tmp_path / "b.mat"
    savemat(path, {"other": 1.0})
    with pytest.raises(EventFileError, match=r"b\.mat: spiketrain is absent"):
        stmnist.decode(path.read_bytes(), str(path))


def test_the_tactile_layout_gives_labels_and_leaves_tables_out(tmp_path):
    for label in range(10):
        folder = tmp_path / "stmnist" / "data" / str(label)
        folder.mkdir(parents=True)
        matlab(folder / "1.mat", taxels((label, 1, 0.1)))
    matlab(tmp_path / "stmnist" / "data" / "0" / "LUT.mat", taxels((0, 1, 0.1)))
    found = dataset("stmnist", tmp_path)
    assert [r.label for r in found.recordings] == list(range(10))
    assert listed(found.read_events(found.recordings[7])) == [(7, 0, 1, 100_000)]


@real
def test_the_real_tactile_recording_has_its_events():
    found = stmnist.decode((Path(REAL or "") / "sample_stmnist.mat").read_bytes(), "sample_stmnist.mat")
    assert (len(found), int(found.p.sum())) == (2346, 1601)
    assert len(np.unique(found.y * 10 + found.x)) == 31
    assert (round(found.t.min() / 1000), round(found.t.max() / 1000)) == (197, 896)


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(
        MissingData, match="--download .* --data DIR .* nmnist_synthetic .* By hand: .*train.zip and test.zip"
    ):
        dataset("nmnist", tmp_path)
    with pytest.raises(MissingData, match="a form: get .*scholarbank.*stmnist'"):
        dataset("stmnist", tmp_path)
    with pytest.raises(MissingData, match="STEMNIST is not in .*spike.npy,manifest.csv"):
        dataset("stemnist", tmp_path)
    with pytest.raises(MissingData, match="Ev-Objects is not in .*sample_I_label_C.npy"):
        dataset("ev_objects", tmp_path)


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("nmnist", "nmnist/Train.zip", True),
        ("nmnist", "nmnist.zip", True),
        ("nmnist", "mine.TAR.GZ", True),
        ("stemnist", "STEMNIST.zip", True),
        ("stemnist", "stemnist/spikes.7z", True),
        ("ev_objects", "ev-objects.zip", True),
        ("stmnist", "st-mnist.rar", True),
        ("stmnist", "stemnist_spikes.zip", False),
        ("stmnist", "notes.txt", False),
    ],
)
def test_an_archive_that_has_to_be_unpacked_is_named_and_one_of_another_dataset_is_not(
    tmp_path, name, place, said
):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    for data in (tmp_path, tmp_path / place) if said and name == "nmnist" else (tmp_path,):
        with pytest.raises(MissingData) as missing:
            dataset(name, data)
        assert str(missing.value).endswith(f"; there is {tmp_path / place}: unpack it") is said


def test_all_archives_within_recordings_are_counted_and_few_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(5):
        (tmp_path / "a" / f"{number}.tgz").write_bytes(b"")
    names = ", ".join(str(tmp_path / "a" / f"{number}.tgz") for number in range(3))
    assert format_unpack_hint(RecordingStore(tmp_path)) == f"; there are {names} and 2 more: unpack them"


def test_the_data_folder_is_the_given_one_then_the_environments_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path))
    monkeypatch.delenv("SPIKY_RL_DATA", raising=False)
    assert get_data_folder() == tmp_path / "datasets"
    monkeypatch.setenv("SPIKY_RL_DATA", "/elsewhere")
    assert get_data_folder() == Path("/elsewhere")
    assert get_data_folder(tmp_path) == tmp_path


def test_an_unknown_dataset_has_its_nearest_name_and_more_frames_than_time_are_refused(tmp_path):
    with pytest.raises(RegistryError, match="unknown dataset 'nmist'; known: .*did you mean 'nmnist'"):
        dataset("nmist", tmp_path)
    with pytest.raises(RegistryError, match="dataset.bins: 4 is out of range; it must be between 1 and 1"):
        dataset("digits", tmp_path, bins=4)
    with pytest.raises(RegistryError, match="dataset.bins: 50 frames in a window of 40; allowed: at most 40"):
        (tmp_path / "a").mkdir()
        np.save(tmp_path / "a" / "1.npy", np.ones((40, 1, 2, 2)))
        dataset("custom", tmp_path, bins=50)


LETTERS, STEPS = ("A", "7", "B"), 240


def stemnist(folder):
    """Three recordings a part, whose only event is at the step and taxel of their number."""
    for part in ("train", "val", "test"):
        place = folder / "spike" / part
        place.mkdir(parents=True)
        spikes = np.zeros((len(LETTERS), STEPS, 16, 16), np.uint8)
        for i in range(len(LETTERS)):
            spikes[i, i, 2, i + 5] = 1
        np.save(place / "spike.npy", spikes)
        rows = [f"{i},{part}_{label}_{i},{label}" for i, label in enumerate(LETTERS)]
        (place / "manifest.csv").write_text("\n".join(["row_index,sample_id,label", *rows]))
    return folder


@pytest.mark.parametrize(("packed", "data"), [(False, ""), (True, "its folder"), (True, "the archive")])
def test_stemnist_has_its_official_split_and_a_choice_of_characters_unpacked_or_not(tmp_path, packed, data):
    folder = stemnist(tmp_path / "stemnist").parent
    if packed:
        with zipfile.ZipFile(folder / "stemnist_spikes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (folder / "stemnist").rglob("*.*"):
                archive.write(path, path.relative_to(folder / "stemnist"))
                path.unlink()
        folder = folder / "stemnist_spikes.zip" if data == "the archive" else folder
    found = dataset("stemnist", folder)
    assert len(found.classes) == 35 and len(found.recordings) == 9
    by_name = {r.name: r for r in found.recordings}
    second = by_name["val/val_7_1"]
    assert (found.classes[second.label], second.part) == ("7", "validation")
    for recording in reversed(found.recordings):  # rows may be read in any order
        i = recording.row
        assert listed(found.read_events(recording)) == [(i + 5, 2, 0, i)]
    digits = dataset("stemnist", folder, characters="digits")
    assert [r.name for r in digits.recordings] == ["test/test_7_1", "train/train_7_1", "val/val_7_1"]
    assert digits.classes == tuple("123456789") and {r.label for r in digits.recordings} == {6}


def test_damaged_stemnist_is_named(tmp_path):
    folder = stemnist(tmp_path / "stemnist")
    spikes = folder / "spike" / "val" / "spike.npy"
    spikes.write_bytes(spikes.read_bytes()[: -16 * 16])
    found = dataset("stemnist", tmp_path)
    last = next(r for r in found.recordings if r.name == "val/val_B_2")
    with pytest.raises(EventFileError, match=r"val/spike\.npy: row 2: the file ends within it"):
        found.read_events(last)
    for row, words in (
        ("0,x,%", "label '%' given; allowed"),
        ("-1,x,A", "row_index '-1' given; allowed"),
        (f"{'9' * 20},x,A", "row_index '9{20}' given; allowed"),
        (f"{'9' * 5000},x,A", r"row_index '9+\.\.\. given; allowed"),
    ):
        (folder / "spike" / "val" / "manifest.csv").write_text(f"row_index,sample_id,label\n{row}\n")
        with pytest.raises(EventFileError, match=rf"val/manifest\.csv: {words}"):
            dataset("stemnist", tmp_path)


def test_a_manifest_of_some_of_stemnist_s_recordings_keeps_their_spikes(tmp_path):
    manifest = stemnist(tmp_path / "stemnist") / "spike" / "val" / "manifest.csv"
    header, _, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, *rows]))
    found = dataset("stemnist", tmp_path)
    second = next(r for r in found.recordings if r.name == "val/val_7_1")
    assert listed(found.read_events(second)) == [(6, 2, 0, 1)]


def test_ev_objects_are_a_row_of_taxels_with_the_official_split(tmp_path):
    for part, number, label in (("train", 0, 35), ("train", 1, 0), ("test", 0, 4)):
        held = np.zeros((39, 2, 250), np.float32)
        held[label, 1, 99] = 1.0
        (tmp_path / "Ev-Objects" / part).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "Ev-Objects" / part / f"sample_{number}_label_{label}.npy", held)
    found = dataset("ev_objects", tmp_path)
    assert [(r.label, r.part) for r in found.recordings] == [(4, "test"), (35, "train"), (0, "train")]
    assert [listed(found.read_events(r)) for r in found.recordings] == [
        [(r.label, 0, 1, 99)] for r in found.recordings
    ]
    np.save(tmp_path / "Ev-Objects" / "test" / "sample_3_label_4.npy", np.ones((39, 2, 7)))
    with pytest.raises(
        EventFileError, match=r"sample_3_label_4\.npy: is \[39, 2, 7\]; expected \[39, 2, 250\]"
    ):
        found.read_events(dataset("ev_objects", tmp_path).recordings[1])
    (tmp_path / "Ev-Objects" / "test" / "sample_3_label_4.npy").write_bytes(b"")
    with pytest.raises(EventFileError, match=r"^[^:]*sample_3_label_4\.npy: is empty$"):
        found.read_events(dataset("ev_objects", tmp_path).recordings[1])
    np.save(tmp_path / "Ev-Objects" / "test" / "sample_3_label_36.npy", np.ones((39, 2, 250)))
    with pytest.raises(EventFileError, match="label 36 given; allowed: 0 to 35"):
        dataset("ev_objects", tmp_path)


@pytest.mark.skipif(
    not REAL
    or not (Path(REAL) / "ev_objects.zip").is_file()
    or not (Path(REAL) / "stemnist_spikes.zip").is_file(),
    reason="published recordings: SPIKY_RL_DATA names no folder with ev_objects.zip and stemnist_spikes.zip",
)
def test_the_published_tactile_recordings_are_read_from_their_archives():
    letters, objects = (dataset(name, Path(REAL or "")) for name in ("stemnist", "ev_objects"))
    for found, counts in ((letters, [5390, 1155, 1155]), (objects, [576, 0, 144])):
        parts = [r.part for r in found.recordings]
        assert [parts.count(part) for part in ("train", "validation", "test")] == counts
    # what numpy counts of the unpacked files
    assert len(letters.read_events(letters.recordings[0])) == 252
    assert len(objects.read_events(objects.recordings[0])) == 36
