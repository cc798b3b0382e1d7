"""Archives: fetched from a real server on this machine, checked, unpacked whole, and refused with what to do instead."""

import dataclasses
import hashlib
import http.server
import io
import threading
import zipfile
from functools import partial

import pytest

from spiky_rl.datasets.download import Archive, DownloadError


def zipped():
    """A .zip with Train/0/00001.bin."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("Train/0/00001.bin", b"12345")
    return held.getvalue()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Without a line for every request."""

    def log_message(self, *_):  # noqa: D102
        pass


@pytest.fixture
def archive(tmp_path):
    """An archive that a server on this machine has."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "train.zip").write_bytes(zipped())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/train.zip"
        yield Archive("train.zip", "md5", hashlib.md5(zipped()).hexdigest(), url, "Train")
        server.shutdown()


def test_what_is_fetched_is_unpacked_and_not_fetched_again(archive, tmp_path):
    archive.fetch(tmp_path / "data")
    assert (tmp_path / "data" / "Train" / "0" / "00001.bin").read_bytes() == b"12345"
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["Train", "train.zip"]
    dataclasses.replace(archive, url="http://127.0.0.1:1/none").fetch(tmp_path / "data")


def test_another_checksum_is_refused_and_nothing_is_kept(archive, tmp_path):
    other = dataclasses.replace(archive, checksum="0" * 32)
    with pytest.raises(DownloadError, match="its md5 is .*, not 0000.* the file was not kept"):
        other.fetch(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_an_archive_put_there_by_hand_is_unpacked_if_it_is_the_right_one(archive, tmp_path):
    (tmp_path / "train.zip").write_bytes(zipped())
    dataclasses.replace(archive, url="http://127.0.0.1:1/none").fetch(tmp_path)
    assert (tmp_path / "Train" / "0" / "00001.bin").is_file()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "train.zip").write_bytes(zipped()[:-1])
    with pytest.raises(DownloadError, match="train.zip: its md5 is .* delete it and get it again"):
        archive.fetch(tmp_path / "wrong")
    assert [p.name for p in (tmp_path / "wrong").iterdir()] == ["train.zip"]


def test_without_a_network_the_message_says_what_to_put_where(archive, tmp_path):
    away = dataclasses.replace(archive, url="http://127.0.0.1:1/train.zip")
    with pytest.raises(
        DownloadError,
        match=r"cannot download http://127.*refused; .* put it into .*data' as 'train.zip' \(md5",
    ):
        away.fetch(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
