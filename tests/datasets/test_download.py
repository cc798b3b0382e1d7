"""Archives: fetched from a real server on this machine, checked, whole, and refused with what to do instead."""

import dataclasses
import fcntl
import hashlib
import http.server
import io
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest

from spiky_rl.classification.samples import get_data_folder
from spiky_rl.config import files
from spiky_rl.datasets import nmnist
from spiky_rl.datasets._download import DatasetArchive, DownloadError


def zipped():
    """A .zip with Train/0/00001.bin."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(zipfile.ZipInfo("Train/0/00001.bin"), b"12345")  # of a fixed date
    return held.getvalue()


POLL = 0.01
"""Seconds that a server's end may take."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Without a line for every request."""

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(tmp_path):
    """An archive that a server on this machine has."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "train.zip").write_bytes(zipped())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=[POLL], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/train.zip"
        sums = {name: hashlib.new(name, zipped()).hexdigest() for name in ("sha256", "md5")}
        yield DatasetArchive("train.zip", sums, url, "Train")
        server.shutdown()


def test_what_is_fetched_is_whole_and_not_fetched_again(archive, tmp_path):
    archive.fetch(tmp_path / "data")
    assert (tmp_path / "data" / "train.zip").read_bytes() == zipped()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["train.zip"]
    away = dataclasses.replace(archive, url="http://127.0.0.1:1/none")
    away.fetch(tmp_path / "data")
    (tmp_path / "unpacked" / "Train").mkdir(parents=True)
    away.fetch(tmp_path / "unpacked")


def test_another_checksum_is_refused_and_nothing_is_kept(archive, tmp_path):
    for name in archive.checksums:
        other = dataclasses.replace(archive, checksums={**archive.checksums, name: "0" * 32})
        with pytest.raises(DownloadError, match=f"its {name} is .*, not 0000.* the file was not kept"):
            other.fetch(tmp_path / "data")
        assert not list((tmp_path / "data").iterdir())


def test_an_archive_put_there_by_hand_is_taken_if_it_is_the_right_one(archive, tmp_path):
    (tmp_path / "train.zip").write_bytes(zipped())
    dataclasses.replace(archive, url="http://127.0.0.1:1/none").fetch(tmp_path)
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "train.zip").write_bytes(zipped()[:-1])
    with pytest.raises(DownloadError, match="train.zip: its sha256 is .* delete it and download it again"):
        archive.fetch(tmp_path / "wrong")
    assert [p.name for p in (tmp_path / "wrong").iterdir()] == ["train.zip"]


def test_without_a_network_the_message_says_what_to_put_where(archive, tmp_path):
    away = dataclasses.replace(archive, url="http://127.0.0.1:1/train.zip")
    with pytest.raises(
        DownloadError,
        match=r"cannot download http://127.*refused; .* put it into .*data' as 'train.zip' \(sha256",
    ):
        away.fetch(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


CONTENT = zipped()


class Breaking(Quiet):
    """Has one file and answers as ``way`` says; keeps what it was asked for."""

    way = ""
    asked: list[str | None] = []

    def do_GET(self):
        self.asked.append(self.headers["Range"])
        if self.way == "error":
            return self.send_error(503)
        if self.way == "empty":
            return self.send_response(200) or self.end_headers()
        start = int((self.headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        half = len(CONTENT) // 2 if self.way else len(CONTENT)
        self.wfile.write(CONTENT[start:half])
        self.wfile.flush()
        if self.way == "reset":  # instead of an end
            time.sleep(0.3)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if self.way == "waits":
            threading.Event().wait(60.0)


@pytest.fixture
def breaking(archive):
    """An archive of a server that breaks off, and the server's class."""
    own = type("Own", (Breaking,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), own) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[POLL], daemon=True).start()
        yield dataclasses.replace(archive, url=f"http://127.0.0.1:{server.server_port}/train.zip"), own
        server.shutdown()


@pytest.mark.parametrize("way", ["ends", "reset"])
def test_a_download_that_broke_goes_on_where_it_was(breaking, tmp_path, way):
    archive, server = breaking
    server.way = way
    with pytest.raises(
        DownloadError, match="cannot download .* run the same command again to continue"
    ) as error:
        archive.fetch(tmp_path)
    assert "\n" not in str(error.value)
    held = (tmp_path / "train.zip.partial").stat().st_size
    assert held == len(CONTENT) // 2
    server.way = ""
    archive.fetch(tmp_path)
    assert server.asked == [None, f"bytes={held}-"]
    assert (tmp_path / "train.zip").read_bytes() == CONTENT
    assert not (tmp_path / "train.zip.partial").exists()


@pytest.mark.parametrize(
    ("held", "kept"), [(CONTENT, True), (CONTENT + b"more", False), (b"x" * (len(CONTENT) // 2), False)]
)
def test_what_an_earlier_download_left_is_taken_only_if_the_whole_is_right(breaking, tmp_path, held, kept):
    archive, _ = breaking
    (tmp_path / "train.zip.partial").write_bytes(held)
    if not kept:
        with pytest.raises(DownloadError, match="the file was not kept"):
            archive.fetch(tmp_path)
    archive.fetch(tmp_path)
    assert (tmp_path / "train.zip").read_bytes() == CONTENT and not (tmp_path / "train.zip.partial").exists()


@pytest.mark.parametrize(
    ("way", "reason"), [("error", "503 Service Unavailable"), ("empty", "the server sent no data")]
)
def test_a_server_that_refuses_or_sends_nothing_is_named_and_leaves_nothing(breaking, tmp_path, way, reason):
    archive, server = breaking
    server.way = way
    with pytest.raises(DownloadError, match=f"cannot download .*: {reason}; download it"):
        archive.fetch(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_file_that_finds_no_room_is_named_and_goes_on_when_there_is(archive, tmp_path):
    """A limit on the size of files in the place of a full disk: both end a write with an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, before[1]))
    try:
        with pytest.raises(
            DownloadError, match="cannot write .*train.zip.partial': File too large; .* again"
        ):
            archive.fetch(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    archive.fetch(tmp_path)
    assert (tmp_path / "train.zip").read_bytes() == CONTENT


def test_a_place_that_is_no_folder_is_named(archive, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deep", Path("/proc/data")):
        with pytest.raises(DownloadError, match="cannot write"):
            archive.fetch(place)


def test_two_downloads_at_once_do_not_mix(breaking, tmp_path):
    archive, _ = breaking
    with (tmp_path / "train.zip.partial").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is downloading it"):
            archive.fetch(tmp_path)


def test_an_interrupt_ends_in_one_line_and_keeps_what_there_is(breaking, tmp_path):
    archive, server = breaking
    server.way = "waits"
    code = (
        "import sys; from pathlib import Path; from spiky_rl.cli import common; from spiky_rl.datasets._download import DatasetArchive\n"
        f"fetch = DatasetArchive({archive.name!r}, {archive.checksums!r}, {archive.url!r}, 'Train').fetch\n"
        "common.run(lambda argv: fetch(Path(argv[0])))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60.0
        while not server.asked and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60.0)[1]
    assert said == "interrupted\n"
    server.way = ""
    archive.fetch(tmp_path)
    assert (tmp_path / "train.zip").read_bytes() == CONTENT


def test_the_published_archives_have_checksums_that_nobody_can_forge():
    for archive in nmnist.ARCHIVES:
        assert len(archive.checksums["sha256"]) == 64


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SPIKY_RL_CACHE", "XDG_CACHE_HOME", "SPIKY_RL_DATA"):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert files.cache_folder() == tmp_path / ".cache" / "spiky_rl"
    assert get_data_folder() == tmp_path / ".cache" / "spiky_rl" / "datasets"


def test_a_relative_folder_is_below_where_the_command_began(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.delenv("SPIKY_RL_CACHE", raising=False)
    assert files.cache_folder() == tmp_path / "cache" / "spiky_rl"
    monkeypatch.setenv("SPIKY_RL_CACHE", "own")
    monkeypatch.setenv("SPIKY_RL_DATA", "data")
    assert files.cache_folder() == tmp_path / "own"
    assert get_data_folder() == tmp_path / "data" and get_data_folder(Path("given")) == tmp_path / "given"
