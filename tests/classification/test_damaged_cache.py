"""Whatever lies in the cache, recordings are what their files say: what is damaged is made anew, and said in one line with its name."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from spiky_rl.classification.cache import load_cached
from spiky_rl.config.registry import UserError
from tests.hosts.test_damaged_checkpoints import REMOVED
from tests.recorded import bars, dataset, encoded


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with recordings, their cache, and the events and sensor that were read."""
    root, generator = tmp_path_factory.mktemp("cached"), np.random.default_rng(0)
    for label in range(2):
        (root / "data" / f"c{label}").mkdir(parents=True)
        for i in range(3):
            events = bars(generator, label).tolist()
            (root / "data" / f"c{label}" / f"{i}.bin").write_bytes(encoded(events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIKY_RL_CACHE", str(root / "cache"))
        yield root, load(root)


def load(root):
    """What recordings are, from the cache where it has them."""
    found = dataset("custom", root / "data", bins=3)
    held = load_cached(found, found.recordings)
    return (
        found.shape,
        found.window,
        held.event_indices.tolist(),
        held.offsets.tolist(),
        held.digests.tolist(),
    )


def bytes_of(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def sparse(path):
    with path.open("r+b") as file:
        file.truncate(2**34)


def value(key, new):
    """A change of a description: another value, or none."""

    def change(path):
        held = json.loads(path.read_text())
        held.pop(key)
        path.write_text(json.dumps(held if new is REMOVED else {**held, key: new}))

    return change


def array(key, change):
    """A change of an array beside the events: another one, or none."""

    def damage(path):
        with np.load(path) as file:
            held = dict(file)
        new = REMOVED if change is REMOVED else change(held[key])
        held.pop(key)
        np.savez(path, **(held if new is REMOVED else {**held, key: new}), allow_pickle=True)

    return damage


def bomb(path):
    """An archive of a megabyte whose array would take a terabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**37,)})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ends.npy", header.getvalue() + bytes(2**20))


def flipped(data):
    """The bytes with one bit of a value changed: of an archive, of its first array."""
    place = 140 if data[:2] == b"PK" else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


ANY = {
    "empty": bytes_of(lambda data: b""),
    "cut in half": bytes_of(lambda data: data[: len(data) // 2]),
    "three bytes less": bytes_of(lambda data: data[:-3]),
    "zeroed": bytes_of(lambda data: bytes(len(data))),
    "a bit of a value flipped": bytes_of(flipped),
    "another's bytes": bytes_of(lambda data: np.random.default_rng(0).bytes(len(data))),
    "a pipe": pipe,
    "far too long": sparse,
}
UNSEEN = {
    ("json", "a bit of a value flipped"),
    *(("events", case) for case in ("zeroed", "a bit of a value flipped", "another's bytes")),
}
"""Damage that the size and the form of a file do not show."""
DAMAGES = {
    f"{ending}: {case}": (ending, change)
    for ending in ("json", "npz", "events")
    for case, change in ANY.items()
    if (ending, case) not in UNSEEN
}
DAMAGES |= {
    "json: no rows": ("json", value("rows", REMOVED)),
    "json: rows is 0": ("json", value("rows", 0)),
    "json: rows is text": ("json", value("rows", "8")),
    "json: a list": ("json", lambda path: path.write_text("[2, 8, 8, 1000, 0]")),
    "json: another key": ("json", bytes_of(lambda data: data.rstrip()[:-1] + b', "more": 1}')),
    "npz: compressed beyond all": ("npz", bomb),
    "npz: Python objects": ("npz", array("ends", lambda held: np.array([{}, [], None, 1, 2, 3], object))),
    "npz: no digests": ("npz", array("digests", REMOVED)),
    "npz: another number of events": ("npz", array("offsets", lambda held: held - 100)),
    "events: one more": ("events", bytes_of(lambda data: data + bytes(4))),
}


UNSAID = {"npz: a pipe", "events: a pipe"}
"""What is no file at all is not looked at."""


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_cache_is_made_anew_and_named(case, good, tmp_path, monkeypatch, caplog):
    root, whole = good
    ending, change = DAMAGES[case]
    shutil.copytree(root / "cache", tmp_path / "cache")
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    (path,) = (tmp_path / "cache" / "frames").glob(f"*.{ending}")
    change(path)
    assert load(root) == whole
    said = [record.getMessage() for record in caplog.records if "made anew" in record.getMessage()]
    assert len(said) == (0 if case in UNSAID else 1), said
    assert all(str(path.with_suffix("")) in line and "\n" not in line for line in said)
    caplog.clear()
    assert load(root) == whole and not caplog.records, "it is whole again"


@pytest.mark.parametrize("ending", ["json", "npz", "events"])
def test_a_folder_in_the_place_of_the_cache_is_an_error_that_names_it(ending, good, tmp_path, monkeypatch):
    root, _ = good
    shutil.copytree(root / "cache", tmp_path / "cache")
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))
    (path,) = (tmp_path / "cache" / "frames").glob(f"*.{ending}")
    path.unlink()
    path.mkdir()
    with pytest.raises((UserError, IsADirectoryError), match="cache.*Is a directory|Is a directory.*cache"):
        load(root)
