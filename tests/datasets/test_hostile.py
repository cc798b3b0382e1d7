"""Recordings from anybody: links, pipes, devices, archives that unpack to anything, and arrays that are none; one line, and no waiting."""

import errno
import io
import os
import time
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from spiky_rl.classification import samples
from spiky_rl.classification.cache import load_cached
from spiky_rl.cli import common
from spiky_rl.cli.classify import classify
from spiky_rl.config.registry import UserError
from spiky_rl.datasets import _arrays, _events, _needs, _store, nmnist_synthetic, stmnist
from spiky_rl.datasets._events import EventFileError, decode_events
from spiky_rl.datasets.base import Recording
from tests.recorded import dataset, encoded, listed

EVENTS = [(3, 4, 1, 70), (5, 6, 0, 90)]
COLUMNS = np.array([(t, x, y, p) for x, y, p, t in EVENTS])
GIVEN = {"sensor": [9, 9], "channels": 2, "window": [0, 100], "bins": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKY_RL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """A folder with one sound recording."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "a.bin").write_bytes(encoded(EVENTS))
    return tmp_path / "data"


def linked(target):
    return lambda path: path.symlink_to(target)


PLACES = {
    "a pipe": (os.mkfifo, "it is not a regular file"),
    "a link to a device without an end": (linked("/dev/zero"), "it is not a regular file"),
    "a link that is its own": (lambda path: path.symlink_to(path), "cannot be read"),
    "a socket's place": (lambda path: path.mkdir(), "Is a directory"),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_is_no_file_in_the_folder_is_named_or_left_out(case, data):
    make, words = PLACES[case]
    make(data / "cat" / "b.bin")
    found, started = dataset("custom", data, **GIVEN), time.monotonic()
    with pytest.raises(EventFileError, match=words) as caught:
        samples.load_samples("custom", found, found.recordings)
    assert str(caught.value).startswith(f"{data / 'cat' / 'b.bin'}: ") and "\n" not in str(caught.value)
    left = samples.load_samples("custom", found, found.recordings, skip_bad=True)
    assert left.names == ["cat/a.bin"] and words in left.skipped[0]
    assert time.monotonic() - started < 30


def test_links_are_followed_wherever_they_lead(data, tmp_path):
    (data / "cat" / "b.bin").symlink_to("a.bin")
    (data / "bird").symlink_to(data)  # a cycle
    (tmp_path / "elsewhere").mkdir()
    for place in (data / "cat" / "c.bin", data / "dog"):
        place.symlink_to(tmp_path / "elsewhere" / place.name)
    (tmp_path / "elsewhere" / "dog").mkdir()
    for name in ("c.bin", "dog/d.bin"):
        (tmp_path / "elsewhere" / name).write_bytes(encoded(EVENTS))
    (tmp_path / "link").symlink_to(data)
    found = dataset("custom", tmp_path / "link", **GIVEN)
    assert [r.name for r in found.recordings] == ["cat/a.bin", "cat/b.bin", "cat/c.bin", "dog/d.bin"]
    assert [listed(found.read_events(r)) for r in found.recordings] == [EVENTS] * 4


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "/dev/zero", "cat/../../outside.bin"])
def test_a_manifest_leads_nowhere_else(name, data, tmp_path):
    (tmp_path / "outside.bin").write_bytes(encoded(EVENTS))
    (data / "manifest.csv").write_text(f"recording,label\n{name},cat\ncat/a.bin,dog\n")
    with pytest.raises(EventFileError, match=f"manifest.csv: row 1: '{name}' leads out of {data}"):
        dataset("custom", data, **GIVEN)


def packed(content, **members):
    """A .npz whose members are given as they are."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in "txyp":
            archive.writestr(f"{key}.npy", members.get(key, content))
    return held.getvalue()


def npy_of(shape, descr: object = "<i8", fortran=False, content=b"", version=(1, 0)):
    """A .npy that says so of itself."""
    header = io.BytesIO()
    write = npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0
    write(header, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return header.getvalue() + content


def saved(array, **given):
    file = io.BytesIO()
    np.save(file, array, **given)
    return file.getvalue()


def columns(**changed):
    """Columns as a .npz, some of them others."""
    file = io.BytesIO()
    np.savez(file, **{**dict(zip("txyp", COLUMNS.T, strict=True)), **changed})
    return file.getvalue()


ARRAYS = {
    "a header that promises a terabyte": ("1.npy", npy_of((2**37, 4)), "the file is shorter"),
    "a tensor that promises more than there is": ("1.npy", npy_of((2**20, 2, 9, 9), "|u1", content=b"1"), "is shorter"),
    "a shape below zero": ("1.npy", npy_of((-4, 4), content=bytes(64)), "has the shape"),
    "a shape beyond all numbers": ("1.npy", npy_of((2**70, 4)), "the file is shorter"),
    "a header of nonsense": ("1.npy", b"\x93NUMPY\x01\x00\x06\x00(((((\n", "it does not begin with the header"),
    "a header that does not end": ("1.npy", b"\x93NUMPY\x01\x00\xff\xff{", "it does not begin with the header"),
    "a header in a header": ("1.npy", npy_of((1,), [("a" * 9000, "<i8")] * 3, version=(2, 0)), "it does not begin with the header"),
    "it does not begin with the header": ("1.npy", b"text", "it does not begin with the header"),
    "Python's own format": ("1.npy", b"\x80\x04N.", "it does not begin with the header"),
    "Python objects": ("1.npy", saved(np.array([{}] * 4, object), allow_pickle=True), "holds Python objects"),
    "objects in a field": (
        "1.npy", saved(np.zeros(2, [("t", object), ("x", "i4"), ("y", "i4"), ("p", "i4")]), allow_pickle=True), "Python objects",
    ),
    "complex numbers": ("1.npy", saved(COLUMNS.astype(complex)), "holds complex128"),
    "a tensor of complex numbers": ("1.npy", saved(np.ones((2, 2, 9, 9), np.complex64)), "holds complex64"),
    "dates": ("1.npy", saved(COLUMNS.astype("M8[us]")), "holds datetime64"),
    "durations": ("1.npy", saved(COLUMNS.astype("m8[us]")), "holds timedelta64"),
    "dates in a field": ("1.npy", saved(np.zeros(2, [("t", "M8[us]"), ("x", "i4"), ("y", "i4"), ("p", "i4")])), "datetime64"),
    "text": ("1.npy", saved(COLUMNS.astype("U")), "holds <U"),
    "no bytes for a value": ("1.npy", npy_of((2, 4), "|V0"), "holds |V0"),
    "a field less": ("1.npy", saved(np.zeros(2, [("t", "i4"), ("x", "i4"), ("y", "i4")])), "no field p; it has t, x, y"),
    "an archive of complex numbers": ("1.npz", columns(t=COLUMNS[:, 0] * 1j), "t: holds complex128"),
    "an archive of dates": ("1.npz", columns(t=COLUMNS[:, 0].astype("M8[us]")), "t: holds datetime64"),
    "an archive of objects": ("1.npz", columns(t=np.array([None, {}], object)), "t: holds Python objects"),
    "an archive without a column": ("1.npz", packed(saved(COLUMNS[:, 0])).replace(b"p.npy", b"q.npy"), "no array p"),
    "an archive that is none": ("1.npz", b"text", "not a readable archive of arrays"),
    "a member that is no array": ("1.npz", packed(b"text"), "t: it does not begin"),
    "a member that promises a terabyte": ("1.npz", packed(npy_of((2**37,))), "t: .* the file is shorter"),
    "a time beyond all": ("1.csv", b"1e300,2,3,1\n", "t is 1e.300; it must be at most 9007199254740992"),
    "a column without an end": ("1.csv", b"1,inf,3,1\n", "x is inf; it must be at most 99999"),
    "a column beyond all": ("1.npy", saved(COLUMNS * [1, 10**12, 1, 1]), "x is 3e.12; it must be at most 99999"),
    "a polarity beyond all": ("1.csv", b"1,2,3,1000000\n", "p is 1e.06; it must be at most 999"),
    "a header without a column": ("1.csv", b"t,x,y\n1,2,3\n", "no column p; it has t, x, y"),
    "a cell without an end": ("1.csv", b"1," + b"2" * 200_000, "field larger than"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_that_is_no_recording_is_named_in_words_of_ours(case, tmp_path):
    name, content, words = ARRAYS[case]
    with pytest.raises(EventFileError, match=words.replace("|", "[|]")) as caught:
        decode_events(content, str(tmp_path / name))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / name}: ") and "\n" not in said
    assert "pickle" not in said and "max_header_size" not in said


@pytest.mark.parametrize("kind", ["M8[us]", "U3", "S2", "c8", "U0", "(2,)M8[s]"])
def test_fields_that_no_event_needs_may_be_of_any_kind(kind, tmp_path):
    fields = [("when", kind), *((key, "i4") for key in "txyp")]
    held = np.zeros(len(COLUMNS), fields)
    for key, column in zip("txyp", COLUMNS.T, strict=True):
        held[key] = column
    (tmp_path / "cat").mkdir()
    np.save(tmp_path / "cat" / "1.npy", held)
    found = dataset("custom", tmp_path, **GIVEN)
    np.testing.assert_array_equal(found.read_events(found.recordings[0]).t, COLUMNS[:, 0])
    assert dataset("custom", tmp_path).window[1] > 0, "nor do they keep the sensor from being found"


class Failing(io.BytesIO):
    """A file on a disk that fails."""

    def read(self, size=-1, /):
        raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_fails_is_no_damaged_file(data, monkeypatch):
    for read in (_arrays.read_header, _arrays.read_arrays, _arrays.list_arrays):
        with pytest.raises(OSError, match="Input/output error"):
            read(Failing(packed(saved(COLUMNS[:, 0]))))
    np.save(data / "cat" / "b.npy", np.ones((2, 2, 9, 9), np.uint8))
    monkeypatch.setattr(_store.RecordingStore, "open", lambda store, name: Failing())
    with pytest.raises(EventFileError, match="b.npy: cannot be read: Input/output error"):
        _needs._measure_tensor(Recording("b", 0, "train", _store.RecordingStore(data), "cat/b.npy"))
    with pytest.raises(EventFileError, match="b.npy: cannot be read: Input/output error"):
        _store.TensorFile(_store.RecordingStore(data), "cat/b.npy")


def test_what_cannot_be_unpacked_is_damage_though_the_unpacker_says_otherwise():
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("t.npy", saved(COLUMNS[:, 0]))
    content = bytearray(held.getvalue())
    content[content.index(b"BZh") + 4] ^= 0xFF
    with pytest.raises(ValueError, match="t: cannot be unpacked: Invalid data stream"):
        _arrays.read_arrays(io.BytesIO(bytes(content)))


def test_a_recording_has_a_limit_of_bytes_and_of_events_packed_or_not(data, monkeypatch):
    for module in (_arrays, _store):
        monkeypatch.setattr(module, "LARGEST", 3000)
    monkeypatch.setattr(_events, "MAX_EVENTS", 500)
    # an archive's arrays, each of which would do; defaults of arguments are older than the limit
    monkeypatch.setattr(_arrays.read_arrays, "__defaults__", ((), "biuf", 3000))
    path = data / "cat" / "b.npy"
    (path.with_suffix(".npz")).write_bytes(packed(saved(np.zeros(300, np.int64))))
    found = dataset("custom", data, **GIVEN)
    with pytest.raises(EventFileError, match=r"b.npz: .*unpacks to 10,\d\d\d bytes; allowed: 3,000"):
        load_cached(found, found.recordings)
    path.with_suffix(".npz").unlink()
    many = {
        "bytes": (np.zeros((100, 4), np.int64), r"has 3,\d\d\d bytes; a recording has at most 3,000"),
        "counts": (np.full((2, 2, 9, 9), 3, np.uint8), "holds 972 events; a recording has at most 500"),
        "columns": (np.zeros((600, 4), np.uint8), "holds 600 events"),
    }
    for array, words in many.values():
        np.save(path, array)
        found = dataset("custom", data, **GIVEN)
        with pytest.raises(EventFileError, match=words):
            found.read_events(found.recordings[1])
    with pytest.raises(EventFileError, match="holds 600 events"):
        decode_events(encoded([(1, 1, 0, 1)] * 600), "1.bin")
    with pytest.raises(EventFileError, match="holds more than 500 events"):
        decode_events(b"1,1,1,1\n" * 600, "1.csv")
    with zipfile.ZipFile(data.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.bin", bytes(5000))
    found = dataset("custom", data.with_suffix(".zip"), **GIVEN)
    with pytest.raises(EventFileError, match="1.bin: has 5,000 bytes; a recording has at most 3,000"):
        found.read_events(found.recordings[0])


def test_images_and_matlab_s_elements_have_a_limit_too(tmp_path, monkeypatch):
    import gzip
    import struct
    import zlib

    monkeypatch.setattr(nmnist_synthetic, "MAX_BYTES", 1000)
    monkeypatch.setattr(stmnist, "LARGEST", 3 << 20)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / f"{nmnist_synthetic.IMAGES}.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(UserError, match="cannot be read: unpacks to more than 1,000 bytes"):
        nmnist_synthetic.load_mnist_like(tmp_path)
    element = zlib.compress(bytes(4 << 20))
    head = bytes(124) + b"\x00\x01IM" + struct.pack("<2I", stmnist.COMPRESSED, len(element))
    with pytest.raises(EventFileError, match="1.mat: byte 128: unpacks to more than 3,145,728 bytes"):
        stmnist.decode(head + element, "1.mat")


def test_arrays_of_either_order_are_the_same_recording(data):
    counts = np.zeros((20, 2, 7, 6), np.uint8)
    counts[7, 1, 4, 3], counts[9, 0, 6, 5] = 1, 2
    (data / "cat" / "a.bin").unlink()
    for name, array in (("c", counts), ("f", np.asfortranarray(counts))):
        np.save(data / "cat" / f"{name}.npy", array)
    found = dataset("custom", data, bins=10)
    assert (found.shape, found.window) == ((2, 7, 6), (0, 20))
    first, second = (listed(found.read_events(recording)) for recording in found.recordings)
    assert first == second == [(3, 4, 1, 7), (5, 6, 0, 9), (5, 6, 0, 9)]
    np.save(data / "cat" / "c.npy", COLUMNS)
    np.save(data / "cat" / "f.npy", COLUMNS.T.copy().T)
    found = dataset("custom", data, bins=10)
    assert [listed(found.read_events(recording)) for recording in found.recordings] == [EVENTS] * 2


@pytest.mark.parametrize("given", [{}, GIVEN])
def test_a_folder_of_bad_recordings_alone_names_one(given, data):
    (data / "cat" / "a.bin").write_bytes(b"")
    (data / "cat" / "b.npy").write_bytes(b"text")
    with pytest.raises(UserError, match="a.bin: is empty"):
        found = dataset("custom", data, **given)
        load_cached(found, found.recordings)


@pytest.mark.parametrize("kind", ["events", "tensors"])
def test_one_recording_does_not_decide_the_window_alone(kind, tmp_path):
    (tmp_path / "cat").mkdir()
    for i in range(12):
        last = 9000 if i == 5 else 100 + i
        if kind == "events":
            (tmp_path / "cat" / f"{i}.csv").write_text(f"1,2,3,0\n{last - 1},2,3,0\n")
        else:
            np.save(tmp_path / "cat" / f"{i}.npy", np.ones((last, 1, 4, 4), np.uint8))
    with pytest.raises(EventFileError, match=r"5\.\w+: lasts until 9000, .* at most 111; .*dataset.window="):
        dataset("custom", tmp_path)
    assert dataset("custom", tmp_path, window=[0, 111]).window == (0, 111)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", ["a pipe", "a device"])
def test_the_command_line_says_it_in_one_line_and_waits_for_nobody(case, data, tmp_path, capsys):
    (data / "dog").mkdir()
    (data / "dog" / "a.bin").write_bytes(encoded(EVENTS))
    if case == "a pipe":
        os.mkfifo(data / "dog" / "b.bin")
    else:
        (data / "dog" / "b.bin").symlink_to("/dev/zero")
    line = ["--dataset", "custom", "--data", str(data), "--device", "cpu"]
    code = common.run(classify, [*line, "--log_root", str(tmp_path / "logs")])
    stderr = capsys.readouterr().err
    last = stderr.splitlines()[-1]
    assert code == 2 and last.startswith(f"error: {data / 'dog' / 'b.bin'}: "), stderr
    assert "Traceback" not in stderr
