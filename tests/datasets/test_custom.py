"""Your own recordings: layouts and formats that need no code, and what is said of those that do not fit."""

import logging
import re
import zipfile

import numpy as np
import pytest
import torch

from spiky_rl.classification import samples
from spiky_rl.classification.settings import DEFAULT_CFG
from spiky_rl.classification.training import compute_logits
from spiky_rl.config.registry import UserError
from spiky_rl.config.spec import resolve_agent
from spiky_rl.datasets._events import EventFileError, MissingData
from tests.recorded import dataset, encoded, listed

EVENTS = [(3, 4, 1, 70), (5, 6, 0, 90), (0, 0, 1, 99)]
COLUMNS = np.array([(t, x, y, p) for x, y, p, t in EVENTS])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))


def write(path, content=None):
    """A recording of `EVENTS`, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    elif path.suffix == ".bin":
        path.write_bytes(encoded(EVENTS))
    elif path.suffix == ".csv":
        path.write_text("x,y,p,t\n" + "".join(f"{x},{y},{p},{t}\n" for x, y, p, t in EVENTS))
    elif path.suffix == ".npz":
        np.savez(path, **dict(zip("txyp", COLUMNS.T, strict=True)))
    else:
        np.save(path, COLUMNS)
    return path


def rows(found):
    return [(r.name, found.classes[r.label] if r.label >= 0 else None, r.part) for r in found.recordings]


@pytest.mark.parametrize("ending", [".bin", ".npy", ".npz", ".csv"])
def test_every_format_gives_the_same_events(tmp_path, ending):
    write(tmp_path / "data" / "cat" / f"1{ending}")
    found = dataset("custom", tmp_path / "data")
    assert sorted(listed(found.read_events(found.recordings[0]))) == sorted(EVENTS)
    assert (found.shape, found.window) == ((2, 7, 6), (0, 100))


def test_columns_may_have_names_signs_and_another_unit(tmp_path):
    named = np.array(
        [(0.07, 3, 4, 1), (0.09, 5, 6, -1)], [("t", "f8"), ("x", "i4"), ("y", "i4"), ("p", "i4")]
    )
    write(tmp_path / "data" / "cat" / "1.npy").unlink()
    np.save(tmp_path / "data" / "cat" / "1.npy", named)
    (tmp_path / "data" / "cat" / "2.csv").write_text("0.07,3,4,1\n0.09,5,6,-1\n")
    found = dataset("custom", tmp_path / "data", unit="s")
    for recording in found.recordings:
        assert listed(found.read_events(recording)) == [(3, 4, 1, 70_000), (5, 6, 0, 90_000)]


def test_a_tensor_counts_its_events_and_is_the_sensor(tmp_path):
    held = np.zeros((20, 3, 4, 5), np.float32)
    held[7, 2, 1, 0] = 3
    (tmp_path / "data" / "cat").mkdir(parents=True)
    np.save(tmp_path / "data" / "cat" / "1.npy", held)
    found = dataset("custom", tmp_path / "data")
    assert (found.shape, found.window) == ((3, 4, 5), (0, 20))
    assert listed(found.read_events(found.recordings[0])) == [(0, 1, 2, 7)] * 3
    np.save(tmp_path / "data" / "cat" / "1.npy", held[:, :2])
    smaller = dataset("custom", tmp_path / "data", sensor=[4, 5], channels=3, window=[0, 20])
    with pytest.raises(
        EventFileError, match=r"1\.npy: is \[20, 2, 4, 5\]; expected \[time, 3, 4, 5\] like the others"
    ):
        smaller.read_events(smaller.recordings[0])


def test_a_folder_for_each_class_may_stand_in_folders_of_a_split(tmp_path):
    for name in ("train/cat/1.bin", "train/dog/1.bin", "testing/cat/2.bin", "Valid/dog/a/3.bin"):
        write(tmp_path / "data" / name)
    found = dataset("custom", tmp_path / "data")
    assert found.classes == ("cat", "dog")
    assert rows(found) == [
        ("Valid/dog/a/3.bin", "dog", "validation"),
        ("testing/cat/2.bin", "cat", "test"),
        ("train/cat/1.bin", "cat", "train"),
        ("train/dog/1.bin", "dog", "train"),
    ]


def test_a_folder_beside_those_of_a_split_is_no_class(tmp_path):
    for name in ("train/cat/1.bin", "held/cat/2.bin"):
        write(tmp_path / "data" / name)
    with pytest.raises(MissingData, match="held: unknown split folder beside train; allowed: train, .*test"):
        dataset("custom", tmp_path / "data")


def test_folders_of_a_split_without_class_folders_are_no_classes(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "data" / part / "1.csv")
    with pytest.raises(MissingData, match="no class folders below test, train; expected DIR/CLASS/RECORDING"):
        dataset("custom", tmp_path / "data")
    assert len(dataset("custom", tmp_path / "data", names=["a", "b"], others="unlabelled").recordings) == 2


def test_a_class_may_be_called_as_a_part_is_or_begin_with_an_underscore(tmp_path):
    for name in ("train/1.bin", "bus/1.bin", "_noise/1.bin"):
        write(tmp_path / "data" / name)
    assert dataset("custom", tmp_path / "data").classes == ("_noise", "bus", "train")


def test_one_odd_recording_does_not_decide_the_sensor(tmp_path):
    for i in range(12):
        write(tmp_path / "events" / "cat" / f"{i}.bin")
    (tmp_path / "events" / "cat" / "3.csv").write_text("t,x,y,p\n1,90000,2,0\n")
    with pytest.raises(EventFileError, match="3.csv: needs 90001 columns, the other recordings at most 6"):
        dataset("custom", tmp_path / "events")
    found = dataset("custom", tmp_path / "events", sensor=[7, 6])
    assert found.shape == (2, 7, 6)
    with pytest.raises(EventFileError, match="3.csv: needs 90001 columns"):
        dataset("custom", tmp_path / "events")  # what was found out with a sensor is not believed without one
    (tmp_path / "tensors" / "cat").mkdir(parents=True)
    for i in range(4):
        np.save(tmp_path / "tensors" / "cat" / f"{i}.npy", np.ones((20, 1, 18 if i == 0 else 16, 16)))
    found = dataset("custom", tmp_path / "tensors")
    assert found.shape == (1, 16, 16)
    with pytest.raises(EventFileError, match="0.npy: is .* expected .time, 1, 16, 16. like the others"):
        found.read_events(found.recordings[0])


def test_times_of_a_cameras_clock_are_refused(tmp_path):
    (tmp_path / "data" / "cat").mkdir(parents=True)
    for i in range(10):
        begin = 1_700_000_000_000_000 + 10_000_000 * i
        events = [f"{begin + t},{t % 6},2,0" for t in range(0, 500_000, 9_999)]
        (tmp_path / "data" / "cat" / f"{i}.csv").write_text("\n".join(["t,x,y,p", *events]))
    with pytest.raises(
        EventFileError,
        match=r"9.csv: lasts until 1700000090499951, but no .* longer than 499951, .* subtract",
    ):
        dataset("custom", tmp_path / "data")
    window = [1_700_000_000_000_000, 1_700_000_000_500_000]
    assert dataset("custom", tmp_path / "data", window=window).window == tuple(window)


def test_steps_and_times_are_not_mixed(tmp_path):
    write(tmp_path / "data" / "cat" / "1.bin")
    np.save(tmp_path / "data" / "cat" / "2.npy", np.ones((20, 2, 7, 6)))
    with pytest.raises(EventFileError, match=r"2.npy: has times in steps, but .*1.bin in microseconds"):
        dataset("custom", tmp_path / "data")
    found = dataset("custom", tmp_path / "data", time="us")
    assert found.window == (0, 100) and found.settings()["time"] == "us"
    assert dataset("custom", tmp_path / "data", time="steps").window == (0, 20)
    with pytest.raises(
        EventFileError, match="2.npy: has times in steps; expected us, like the others or dataset.time"
    ):
        found.read_events(found.recordings[1])


@pytest.mark.parametrize("given", [{}, {"sensor": [7, 6], "channels": 2, "window": [0, 100]}])
def test_recordings_of_another_kind_than_a_network_was_trained_with_are_refused(given, tmp_path):
    write(tmp_path / "data" / "cat" / "1.bin")
    settings = dataset("custom", tmp_path / "data", **given).settings()
    assert settings["time"] == "us"
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "1.npy", np.ones((20, 2, 7, 6)))
    kept = {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    other = dataset("custom", tmp_path / "other", **kept)
    with pytest.raises(EventFileError, match="1.npy: has times in steps"):
        other.read_events(other.recordings[0])


def test_classes_that_are_numbers_stand_in_their_order_and_hidden_files_are_no_recordings(tmp_path):
    for name in ("10/1.bin", "9/1.bin", "1/1.bin", "1/.2.bin", "__MACOSX/1/1.bin", "1/notes.txt"):
        write(tmp_path / "data" / name, b"x" if "1.bin" not in name else None)
    found = dataset("custom", tmp_path / "data")
    assert found.classes == ("1", "9", "10") and len(found.recordings) == 3


def test_a_class_may_be_a_number_of_thousands_of_digits(tmp_path):
    for number in "12":
        write(tmp_path / f"{number}.bin")
    (tmp_path / "manifest.csv").write_text(f"recording,label\n1.bin,{'7' * 5000}\n2.bin,8\n")
    assert dataset("custom", tmp_path).classes == ("8", "7" * 5000)


def test_recordings_without_folders_have_no_class(tmp_path):
    write(tmp_path / "data" / "1.bin")
    assert rows(dataset("custom", tmp_path / "data")) == [("1.bin", None, "train")]


def test_recordings_of_other_classes_may_count_as_unlabelled(tmp_path, caplog):
    for name in ("cats/1.bin", "today/2.bin"):
        write(tmp_path / "data" / name)
    with pytest.raises(
        MissingData, match="unknown class 'today'; allowed: cats, dogs; dataset.others=unlabelled"
    ):
        dataset("custom", tmp_path / "data", names=["cats", "dogs"])
    with caplog.at_level(logging.INFO):
        found = dataset("custom", tmp_path / "data", names=["cats", "dogs"], others="unlabelled")
    assert rows(found) == [("cats/1.bin", "cats", "train"), ("today/2.bin", None, "train")]
    assert "recordings of today are taken as unlabelled; the classes are cats, dogs" in caplog.text


SENSORS = {
    (40, 16): "lif_conv_classifier",
    (15, 40): "lif_conv_small_classifier",
    (1, 40): "lif_linear_classifier",
}


@pytest.mark.parametrize("sensor", SENSORS)
def test_the_agent_fits_the_sensor(tmp_path, sensor):
    (tmp_path / "data" / "cats").mkdir(parents=True)
    np.save(tmp_path / "data" / "cats" / "1.npy", np.ones((20, 1, *sensor)))
    found = dataset("custom", tmp_path / "data")
    assert found.agent == SENSORS[sensor]
    network = resolve_agent(found.agent, "custom", DEFAULT_CFG, []).network.build(
        inputs=(1, *sensor), outputs=2
    )
    assert compute_logits(network, torch.ones(3, 1, sensor[0] * sensor[1])).shape == (1, 2)


def test_a_manifest_may_call_the_split_a_part_as_the_list_of_a_run_does(tmp_path):
    for name in ("a.bin", "b.bin"):
        write(tmp_path / "data" / name)
    text = "Recording,label,part,who\na.bin,cat,train,x\nb.bin,cat,test,y\n"
    (tmp_path / "data" / "manifest.csv").write_text(text)
    assert rows(dataset("custom", tmp_path / "data")) == [("a.bin", "cat", "train"), ("b.bin", "cat", "test")]


@pytest.mark.parametrize(("ending", "kind"), [(".csv", ""), (".npz", "U"), (".npz", "S")])
def test_a_manifest_lists_recordings_with_label_and_split(tmp_path, ending, kind):
    table = [("a/1.bin", "cat", "train"), ("b.npy", "dog", "test"), ("a/2.csv", "", "val")]
    for name, _, _ in (*table, ("a/3.bin", "", "")):
        write(tmp_path / "data" / name)
    if ending == ".csv":
        text = "\n".join(["recording,label,split", *map(",".join, table)])
        (tmp_path / "data" / "manifest.csv").write_text(text)
    else:
        columns = zip(("recording", "label", "split"), zip(*table, strict=True), strict=True)
        arrays = {key: np.array(column).astype(kind) for key, column in columns}
        np.savez(tmp_path / "data" / "manifest.npz", **arrays)
    found = dataset("custom", tmp_path / "data")
    assert rows(found) == [
        ("a/1.bin", "cat", "train"),
        ("b.npy", "dog", "test"),
        ("a/2.csv", None, "validation"),
    ]
    assert all(sorted(listed(found.read_events(r))) == sorted(EVENTS) for r in found.recordings)


def test_an_archive_is_read_as_a_folder_with_or_without_one_around_all(tmp_path):
    for around in ("", "mine/"):
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for name in ("cat/1.bin", "dog/2.bin"):
                archive.writestr(f"{around}{name}", encoded(EVENTS))
        found = dataset("custom", tmp_path / "data.zip")
        assert found.classes == ("cat", "dog") and listed(found.read_events(found.recordings[1])) == EVENTS


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_an_archive_holds_twice_is_one_recording(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name, content in (
            ("cat/1.bin", b""),
            ("dog/2.bin", encoded(EVENTS)),
            ("cat/1.bin", encoded(EVENTS)),
        ):
            archive.writestr(name, content)
    found = dataset("custom", tmp_path / "data.zip")
    assert len(found.recordings) == 2 and listed(found.read_events(found.recordings[0])) == EVENTS


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_recording_in_an_archive_is_named_however_it_is_packed(tmp_path, method):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("cat/1.bin", "dog/2.bin"):
            archive.writestr(name, np.random.default_rng(0).bytes(500))
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(byte ^ 0xA5 for byte in data[60:160])
    path.write_bytes(data)
    found = dataset("custom", path, sensor=[9, 9], channels=2, window=[0, 100], bins=2)
    with pytest.raises(EventFileError, match=r"cat/1\.bin: cannot be read: "):
        found.read_events(found.recordings[0])


def test_what_recordings_need_is_found_out_once_and_said_and_what_is_given_stands(
    tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    write(tmp_path / "data" / "cat" / "1.bin")
    first = dataset("custom", tmp_path / "data")
    assert (
        "2 channels, 7 x 6 pixels, times from 0 to 100; set dataset.channels, .sensor and .window"
        in caplog.text
    )
    monkeypatch.setattr(type(first), "read_events", None)
    warm = dataset("custom", tmp_path / "data")
    assert (warm.shape, warm.window) == (first.shape, first.window)
    given = dataset("custom", tmp_path / "data", sensor=[34, 34], channels=2, window=[50, 95], time="us")
    assert (given.shape, given.window) == ((2, 34, 34), (50, 95))
    assert dataset("custom", tmp_path / "data", **given.settings()).shape == (2, 34, 34)


EMPTY = {"an empty folder": False, "other files": True}


@pytest.mark.parametrize("case", EMPTY)
def test_a_folder_without_recordings_is_told_the_layout(tmp_path, case):
    (tmp_path / "data" / "cat").mkdir(parents=True)
    if EMPTY[case]:
        (tmp_path / "data" / "cat" / "1.txt").write_text("x")
    with pytest.raises(
        MissingData,
        match="data: contains no recording; expected DIR/CLASS/RECORDING.*manifest.csv.*t, x, y, p",
    ):
        dataset("custom", tmp_path / "data")
    with pytest.raises(MissingData, match="none: no such folder; expected DIR/CLASS"):
        dataset("custom", tmp_path / "none")


BAD = {
    "zero bytes": ("1.bin", b"", "is empty"),
    "a cut event": ("1.bin", encoded(EVENTS)[:-2], "byte 10: the last event has 3 of 5 bytes"),
    "no numpy file": ("1.npy", b"text", "not a recording, or damaged"),
    "no zip": ("1.npz", b"text", "not a recording, or damaged"),
    "no text": ("1.csv", b"\xff\xfe\x00", "not a recording, or damaged"),
    "words": ("1.csv", b"t,x,y,p\n1,a,2,1\n", "could not convert"),
    "a column less": ("1.csv", b"1,2,3\n", "event 0: p is nan"),
    "a negative column": (
        "1.csv",
        b"1,2,3,1\n5,-1,0,1\n",
        "event 1: x is -1; it must be a whole number of 0 or more",
    ),
    "a negative time": ("1.csv", b"-1,2,3,1\n", "event 0: t is -1; it must be 0 or more"),
    "half a pixel": ("1.csv", b"1,2.5,3,1\n", "event 0: x is 2.5"),
    "no time": ("1.csv", b"inf,2,3,1\n", "event 0: t is inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_recording_that_is_damaged_is_named_with_what_is_wrong(case, tmp_path):
    name, content, words = BAD[case]
    write(tmp_path / "data" / "cat" / name, content)
    found = dataset("custom", tmp_path / "data", sensor=[9, 9], channels=2, window=[0, 100])
    with pytest.raises(EventFileError, match=f"{name}: .*{words}") as error:
        found.read_events(found.recordings[0])
    assert "\n" not in str(error.value)


BAD_TENSORS = {
    "a fraction": (np.full((2, 1, 1, 1), 0.5), "holds 0.5; a tensor counts events"),
    "a negative count": (np.full((2, 1, 1, 1), -1), "holds -1"),
    "no number": (np.full((2, 1, 1, 1), np.nan), "holds nan"),
    "three axes": (np.ones((2, 1, 1)), r"holds float64 of shape \[2, 1, 1\]; expected counts \[time"),
    "words": (np.array([["a"]]), "holds <U1"),
    "unequal lists": ({"t": [1], "x": [1, 2], "y": [1], "p": [1]}, "they must be lists of equal length"),
    "a list less": ({"t": [1], "x": [1], "y": [1]}, "not a recording, or damaged: no"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_arrays_that_are_no_recording_are_named(case, tmp_path):
    held, words = BAD_TENSORS[case]
    (tmp_path / "cat").mkdir()
    if isinstance(held, dict):
        np.savez(tmp_path / "cat" / "1.npz", **held)
    else:
        np.save(tmp_path / "cat" / "1.npy", held)
    found = dataset("custom", tmp_path, sensor=[1, 1], channels=1, window=[0, 100])
    with pytest.raises(EventFileError, match=words):
        found.read_events(found.recordings[0])


MANIFESTS = {
    "no column": ("file,label\na.bin,cat\n", "expected columns recording, label and split"),
    "a split": (
        "recording,label,split\na.bin,cat,tset\n",
        "row 1: unknown split 'tset'; .*; did you mean 'test'",
    ),
    "twice": (
        "recording,label,split\na.bin,cat,train\na.bin,cat,test\n",
        "row 2: 'a.bin' is in row 1 already",
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_does_not_fit_is_refused(case, tmp_path):
    text, words = MANIFESTS[case]
    write(tmp_path / "a.bin")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        dataset("custom", tmp_path)


@pytest.mark.parametrize("kind", ["in a folder", "in an archive", "as a link that leads nowhere"])
def test_a_file_that_is_listed_and_not_there_is_named_or_left_out(tmp_path, kind):
    data = tmp_path / "data"
    listing = "recording,label\na.bin,cat\nb.bin,dog\n"
    words = "cannot be read: No such file"
    if kind == "in an archive":
        data, words = tmp_path / "data.zip", "is not in the archive"
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("manifest.csv", listing)
            archive.writestr("a.bin", encoded(EVENTS))
    else:
        write(data / "a.bin")
        (data / "manifest.csv").write_text(listing)
        if kind == "as a link that leads nowhere":
            (data / "b.bin").symlink_to(tmp_path / "nowhere.bin")
    found = dataset("custom", data)
    with pytest.raises(EventFileError, match=re.escape(f"{data / 'b.bin'}: {words}")):
        samples.load_samples("custom", found, found.recordings)
    left = samples.load_samples("custom", found, found.recordings, skip_bad=True)
    assert left.names == ["a.bin"] and words in left.skipped[0]


def test_options_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path / "cat" / "1.bin")
    with pytest.raises(UserError, match=r"dataset.window: \[9, 9\] ends before it begins"):
        dataset("custom", tmp_path, window=[9, 9])
    with pytest.raises(UserError, match="unknown class 'cat'; allowed: cats, dogs; did you mean 'cats'"):
        dataset("custom", tmp_path, names=["cats", "dogs"])
