"""Data that are damaged, foreign, missing or too large: one line that names the file or the option, and no traceback."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.classification import samples
from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.config.registry import UserError
from spiky_rl.datasets import nmnist_synthetic
from tests.recorded import dataset

EVENT = bytes([1, 2, 0x80, 0, 7])
OVERFLOW = bytes([0, 240, 0, 0, 0])
PACKED = {"addr": [1, 2, 3], "dt": [1, 1, 1], "off": [0, 1, 3], "label": [0, 9]}


def recordings(folder: Path, part: str = "Train", count: int = 1) -> None:
    """So many recordings of one event for each of two classes."""
    for label in ("0", "1"):
        (folder / "nmnist" / part / label).mkdir(parents=True)
        for number in range(count):
            (folder / "nmnist" / part / label / f"{number + 1:05}.bin").write_bytes(EVENT)


def packed(folder: Path) -> int:
    """How many packed recordings of the folder can be read."""
    found = dataset("nmnist", folder)
    return sum(len(found.read_events(r)) > 0 for r in found.recordings)


def refusal(argv, capsys) -> str:
    """What classify.py says of an input that it refuses with exit code 2, in one line."""
    code = common.run(classify, ["--dataset", "nmnist", "--device", "cpu", *map(str, argv)])
    said = capsys.readouterr().err.splitlines()
    assert code == 2 and said[-1].startswith("error: "), said
    return said[-1]


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """A cache and a folder of runs of our own."""
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "kind", ["absent", "a file", "an empty folder", "folders without files", "an archive alone"]
)
def test_a_data_folder_without_data_is_named(tmp_path, capsys, kind):
    place = tmp_path / "data"
    if kind == "a file":
        place.write_text("")
    elif kind == "folders without files":
        (place / "nmnist" / "Train" / "0").mkdir(parents=True)
    elif kind != "absent":
        (place / "nmnist").mkdir(parents=True)
    if kind == "an archive alone":
        (place / "nmnist" / "train.zip").write_bytes(b"")
        said = refusal(["--data", place, "--download"], capsys)
        assert "train.zip: its sha256 is" in said
        assert "train.zip: not an archive, or damaged" in refusal(["--data", place], capsys)
    else:
        assert str(place) in refusal(["--data", place], capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (OVERFLOW, "holds no events"),
        (bytes([1, 2, 0x7F, 255, 255]), "none in the window from 0 to 300000"),
        (EVENT[:4], "truncated"),
        (b"\xff" * 5, "column 255, row 255"),
    ],
)
def test_a_damaged_recording_is_named(tmp_path, capsys, content, words):
    recordings(tmp_path)
    path = tmp_path / "nmnist" / "Train" / "1" / "00001.bin"
    path.write_bytes(content)
    said = refusal(["--data", tmp_path], capsys)
    assert str(path) in said and words in said and "--skip_bad" in said


def test_a_folder_of_empty_recordings_trains_nothing(tmp_path, capsys):
    recordings(tmp_path, count=30)
    for path in tmp_path.rglob("*.bin"):
        path.write_bytes(b"")
    assert "is empty" in refusal(["--data", tmp_path], capsys)
    assert "no recording is left" in refusal(["--data", tmp_path, "--skip_bad"], capsys)
    assert not list((tmp_path / "logs").glob("classify/*/*"))


def test_a_test_set_alone_is_nothing_to_learn_from(tmp_path, capsys):
    recordings(tmp_path, "Test", count=5)
    said = refusal(["--data", tmp_path], capsys)
    assert "all recordings are in the test set, " in said


def test_recordings_of_one_class_are_nothing_to_tell_apart(tmp_path, capsys):
    recordings(tmp_path, count=5)
    for path in (tmp_path / "nmnist" / "Train" / "1").iterdir():
        path.unlink()
    assert "all recordings are of one class" in refusal(["--data", tmp_path], capsys)


def test_recordings_of_one_class_that_are_left_after_the_skipped_ones_are_refused(tmp_path, capsys):
    recordings(tmp_path, count=5)
    for path in (tmp_path / "nmnist" / "Train" / "1").iterdir():
        path.write_bytes(EVENT[:3])
    assert "all recordings are of one class" in refusal(["--data", tmp_path, "--skip_bad"], capsys)


def test_a_recording_that_cannot_be_read_is_named(tmp_path, capsys):
    recordings(tmp_path)
    path = tmp_path / "nmnist" / "Train" / "1" / "00001.bin"
    path.unlink()
    path.mkdir()  # root may read whatever there is, but no folder
    said = refusal(["--data", tmp_path], capsys)
    assert str(path) in said and "cannot be read: Is a directory" in said


@pytest.mark.parametrize(
    "changed",
    [{"off": []}, {"off": [0, 3]}, {"off": [1, 2, 3]}, {"addr": [0.5, 1.0, 2.0]}, {"label": ["a", "b"]}, {"label": [[0, 9]]},
     {"label": [], "off": [0], "addr": [], "dt": []}, {"dt": [1]}],
)  # fmt: skip
def test_packed_recordings_that_contradict_themselves_are_refused(tmp_path, changed):
    path = tmp_path / "nmnist_own.npz"
    np.savez(path, **PACKED)
    assert packed(tmp_path) == 2
    np.savez(path, **{**PACKED, **changed})
    with pytest.raises(UserError, match="nmnist_own.npz"):
        packed(tmp_path)
    # nothing of it can be read, whatever may be left out
    found = {**PACKED, **changed}
    if len(found["label"]) == 2 and all(isinstance(label, int) for label in found["label"]):
        bad = dataset("nmnist", tmp_path)
        with pytest.raises(UserError) as refused:
            samples.load_samples("nmnist", bad, bad.recordings, skip_bad=True)
        assert "is left" not in str(refused.value)


ROWS = {
    "a label": ({"label": [0, 9, 12, 1]}, "label 12 given; allowed: 0 to 9"),
    "a label below 0": ({"label": [0, 9, -1, 1]}, "label -1 given; allowed: 0 to 9"),
    "an address": ({"addr": [1, 2, 3, 60000, 5, 6]}, "event 0: addr is 60000; it must be between 0 and 2311"),
    "an address below 0": ({"addr": [1, 2, 3, 4, -5, 6]}, "event 1: addr is -5; it must be"),
    "a time that goes back": ({"dt": [1, 1, 1, 1, -99999, 1]}, "event 1: dt is -99999; it must be"),
    "no events": ({"off": [0, 1, 5, 5, 6]}, "holds no events"),
}
FOUR = {
    "addr": [1, 2, 3, 4, 5, 6],
    "dt": [1] * 6,
    "off": [0, 1, 3, 5, 6],
    "label": [0, 9, 5, 1],
    "id": [7, 8, 9, 10],
}


@pytest.mark.parametrize("case", ROWS)
def test_one_bad_row_of_packed_recordings_is_named_and_can_be_left_out_alone(tmp_path, case):
    change, words = ROWS[case]
    held = {**FOUR, **change}
    np.savez(tmp_path / "nmnist_own.npz", **{key: np.array(value) for key, value in held.items()})
    found = dataset("nmnist", tmp_path)
    where = f"{tmp_path / 'nmnist_own.npz'}: row 2 (Train/{held['label'][2]}/00009): {words}"
    with pytest.raises(UserError, match=re.escape(where)):
        samples.load_samples("nmnist", found, found.recordings)
    left = samples.load_samples("nmnist", found, found.recordings, skip_bad=True)
    assert left.names == ["Train/0/00007", "Train/9/00008", "Train/1/00010"]
    assert len(left.skipped) == 1 and left.skipped[0].startswith(where)


def test_packed_recordings_in_two_files_are_refused(tmp_path):
    for name in ("nmnist_test.npz", "nmnist_train.npz"):
        np.savez(tmp_path / name, **PACKED)
    with pytest.raises(UserError, match="nmnist_test.npz: there is nmnist_train.npz beside it; allowed: one"):
        dataset("nmnist", tmp_path)


def test_packed_recordings_that_are_damaged_anywhere_are_refused(tmp_path):
    path = tmp_path / "nmnist_own.npz"
    np.savez_compressed(path, **PACKED)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        with pytest.raises(UserError, match="nmnist_own.npz"):
            packed(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x03",
        b"\0\0\x08\x03\0\0\0\1",
        b"\0\0\x08\x01\0\0\0\2a",
        b"\0\0\x0d\x01\0\0\0\1a",
        b"text",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_no_mnist_is_named(tmp_path, content, packed):
    (tmp_path / "mnist").mkdir()
    name = nmnist_synthetic.IMAGES + (".gz" if packed else "")
    (tmp_path / "mnist" / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=nmnist_synthetic.IMAGES):
        nmnist_synthetic.load_mnist_like(tmp_path)


def test_images_without_their_labels_are_refused(tmp_path):
    (tmp_path / "mnist").mkdir()
    header = b"\0\0\x08\x03\0\0\0\1\0\0\0\x1c\0\0\0\x1c"
    (tmp_path / "mnist" / nmnist_synthetic.IMAGES).write_bytes(header + bytes(28 * 28))
    for labels, fits in ((b"\0\0\x08\x01\0\0\0\1\5", True), (b"\0\0\x08\x01\0\0\0\2\5\6", False)):
        (tmp_path / "mnist" / nmnist_synthetic.LABELS).write_bytes(labels)
        if fits:
            assert nmnist_synthetic.load_mnist_like(tmp_path)[2] == "MNIST"
        else:
            with pytest.raises(UserError, match=r"is \[1, 28, 28\] and .* \[2\]"):
                nmnist_synthetic.load_mnist_like(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no gzip at all", gzip.compress(b"x" * 1000, mtime=0)[:20]])
def test_a_packed_file_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{nmnist_synthetic.IMAGES}.gz").write_bytes(content)
    with pytest.raises(UserError, match=nmnist_synthetic.IMAGES):
        nmnist_synthetic.load_mnist_like(tmp_path)


OPTIONS = {
    "more frames than microseconds": (["--bins", 10**6], ["dataset.bins", "between 1 and 100000"]),
    "an option without a value": (["dataset.bins"], ["'dataset.bins' has no value", "dataset.bins=value"]),
    "all recordings held out": (["--hold_out", 2], ["--hold_out 2", "between 1 and 1"]),
    "more recordings than there are": (["--recordings", 10**6], ["--recordings 1000000", "at most 2"]),
    "no list": (["--ids", "none.txt"], ["--ids '", "none.txt'", "No such file"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_the_data_are_refused(tmp_path, capsys, case):
    recordings(tmp_path)
    given, words = OPTIONS[case]
    said = refusal(["--data", tmp_path, *given], capsys)
    for word in words:
        assert word in said
    assert not list((tmp_path / "logs").glob("classify/*/*"))
