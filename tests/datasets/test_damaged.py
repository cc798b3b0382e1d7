"""Data that are damaged, foreign, missing or too large: one line that names the file or the option, and no traceback."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.config.registry import UserError
from spiky_rl.datasets import digits, nmnist, samples
from spiky_rl.datasets.frames import Binning, frames

EVENT = bytes([1, 2, 0x80, 0, 7])
PACKED = {"addr": [1, 2, 3], "dt": [1, 1, 1], "off": [0, 1, 3], "label": [0, 9]}


def recordings(folder: Path) -> nmnist.NMnist:
    """Two recordings of one event each."""
    for label in ("0", "1"):
        (folder / "nmnist" / "Train" / label).mkdir(parents=True)
        (folder / "nmnist" / "Train" / label / "00001.bin").write_bytes(EVENT)
    return nmnist.find(folder)


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
    else:
        assert str(place) in refusal(["--data", place], capsys)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (EVENT[:4], "truncated"), (b"\xff" * 5, "column 255, row 255")]
)
def test_a_damaged_recording_is_named(tmp_path, capsys, content, words):
    held = recordings(tmp_path)
    path = tmp_path / "nmnist" / "Train" / "1" / "00001.bin"
    path.write_bytes(content)
    said = refusal(["--data", tmp_path], capsys)
    assert str(path) in said and words in said and len(held) == 2


def test_a_recording_that_cannot_be_read_is_named(tmp_path, capsys):
    recordings(tmp_path)
    path = tmp_path / "nmnist" / "Train" / "1" / "00001.bin"
    path.unlink()
    path.mkdir()  # root may read whatever there is, but no folder
    said = refusal(["--data", tmp_path], capsys)
    assert str(path) in said and "cannot be read: Is a directory" in said


@pytest.mark.parametrize(
    "changed",
    [{"off": []}, {"off": [0, 3]}, {"off": [1, 2, 3]}, {"addr": [1, 2, -3]}, {"addr": [1, 2, 9999]}, {"addr": [0.5, 1.0, 2.0]},
     {"label": ["a", "b"]}, {"label": [0, 10]}, {"label": [0, -1]}, {"label": [[0, 9]]}, {"label": [], "off": [0], "addr": [], "dt": []},
     {"dt": [1]}],
)  # fmt: skip
def test_packed_recordings_that_contradict_themselves_are_refused(tmp_path, changed):
    path = tmp_path / "nmnist_own.npz"
    np.savez(path, **PACKED)
    assert len(nmnist.find(tmp_path)) == 2
    np.savez(path, **{**PACKED, **changed})
    with pytest.raises(UserError, match="nmnist_own.npz"):
        nmnist.find(tmp_path)


def test_packed_recordings_that_are_damaged_anywhere_are_refused(tmp_path):
    path = tmp_path / "nmnist_own.npz"
    np.savez_compressed(path, **PACKED)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        with pytest.raises(UserError, match="nmnist_own.npz"):
            nmnist.find(tmp_path)


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
    name = digits.IMAGES + (".gz" if packed else "")
    (tmp_path / "mnist" / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=digits.IMAGES):
        digits.like_mnist(tmp_path)


def test_images_without_their_labels_are_refused(tmp_path):
    (tmp_path / "mnist").mkdir()
    header = b"\0\0\x08\x03\0\0\0\1\0\0\0\x1c\0\0\0\x1c"
    (tmp_path / "mnist" / digits.IMAGES).write_bytes(header + bytes(28 * 28))
    for labels, fits in ((b"\0\0\x08\x01\0\0\0\1\5", True), (b"\0\0\x08\x01\0\0\0\2\5\6", False)):
        (tmp_path / "mnist" / digits.LABELS).write_bytes(labels)
        if fits:
            assert digits.like_mnist(tmp_path)[2] == "MNIST"
        else:
            with pytest.raises(UserError, match=r"is \[1, 28, 28\] and .* \[2\]"):
                digits.like_mnist(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no gzip at all", gzip.compress(b"x" * 1000, mtime=0)[:20]])
def test_a_packed_file_that_is_damaged_is_named(tmp_path, content):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{digits.IMAGES}.gz").write_bytes(content)
    with pytest.raises(UserError, match=digits.IMAGES):
        digits.like_mnist(tmp_path)


def test_damaged_frames_are_made_anew(tmp_path):
    held, binning = recordings(tmp_path), Binning(2, 0, 1000, (34, 34))
    whole = np.array(frames(held, binning, "digest"))
    (path,) = (tmp_path / "cache" / "frames").iterdir()
    size = path.stat().st_size
    for left in (0, 20, size // 2, size - 1):
        with path.open("r+b") as file:
            file.truncate(left)
        assert np.array_equal(frames(held, binning, "digest"), whole)


def test_frames_that_find_no_room_are_refused(tmp_path, monkeypatch):
    class Many(nmnist.NMnistFiles):
        """As many recordings as nobody has."""

        def __len__(self) -> int:
            return 10**12

    recordings(tmp_path)
    many = Many([tmp_path / "nmnist" / "Train"], [False])
    with pytest.raises(UserError, match="bins: 1000 bins of 1000000000000 recordings take .* GB"):
        frames(many, Binning(1000, 0, 1000, (34, 34)), "digest")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/cache")):
        monkeypatch.setenv("SPIKY_RL_CACHE", str(place))
        with pytest.raises(UserError, match="frames cannot be kept in .* SPIKY_RL_CACHE"):
            frames(recordings_of(many), Binning(2, 0, 1000, (34, 34)), "digest")


def recordings_of(many: nmnist.NMnistFiles) -> nmnist.NMnist:
    """Those that there are."""
    return nmnist.NMnistFiles([many.paths[0].parent.parent], [False])


OPTIONS = {
    "more bins than microseconds": (["--bins", 10**6], ["bins", "do not fit"]),
    "all recordings held out": (["--hold_out", 2], ["--hold_out 2", "between 1 and 1"]),
    "more recordings than images": (["--synthetic", "--recordings", 10**6], ["--recordings", "1797"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_the_data_are_refused(tmp_path, capsys, case):
    recordings(tmp_path)
    given, words = OPTIONS[case]
    said = refusal(["--data", tmp_path, *given], capsys)
    for word in words:
        assert word in said
    assert not list((tmp_path / "logs").glob("classify/*/*"))


def test_an_unknown_dataset_has_its_nearest_name():
    with pytest.raises(UserError, match="did you mean 'nmnist'"):
        samples.load("nmnst", Path("."))
